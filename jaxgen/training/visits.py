"""What training may meet in the records of a config: all sources, wordings and droppings."""

import itertools
import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from jaxgen.config.schema import LANGUAGE_TASKS
from jaxgen.core.errors import user_error
from jaxgen.data import tasks
from jaxgen.data.sample import Sample
from jaxgen.data.sample import draw_variant
from jaxgen.data.sequences import SHUFFLE_LIMIT
from jaxgen.data.sequences import open_spec
from jaxgen.data.sources import Source
from jaxgen.data.streams import SOURCES
from jaxgen.training.validation import HELD_OUT
from jaxgen.training.validation import held_out


def open_sources(config: ConfigDict, language: bool = False) -> list[tuple[Source, str]]:
  """The sources with images to be drawn, and their tasks; those of the validation too.

  Args:
    config: of a run.
    language: also the sources of language tasks, which draw none.
  """
  opened = _opened(config, SOURCES, language)
  if config.validation.every:
    opened += _opened(held_out(config), HELD_OUT, language)
  return opened


def _opened(config: ConfigDict, where: str, language: bool) -> list[tuple[Source, str]]:
  opened = []
  for name, spec in sorted(config.data.sources.items()):
    field = f'{where}.{name}'
    if spec.task in LANGUAGE_TASKS and not language:
      continue
    source = open_spec(spec, config, f'{field}.path')
    if len(source) >= SHUFFLE_LIMIT:
      raise user_error(f'{field}.limit', spec.limit, f'a source of kind {spec.kind} has no end and '
                       'cannot be cached; give the number of records to use')
    opened.append((source, spec.task))
  return opened


def wordings(sample: Sample, task: str, data: ConfigDict, language: bool = False
             ) -> Iterator[Sample]:
  """A record in all the ways in which a task may choose its images.

  Dropping takes images away and leaves the others as they are, and texts change none. Without
  ``language`` there is no way in which a language task does.
  """
  task = tasks.kind_of(sample) if task == 'auto' else task
  if language or task not in LANGUAGE_TASKS:
    count = sum(part.role == 'target' for part in sample.images) if task == 'dialogue' else 1
    for number in range(max(count, 1)):
      yield tasks.worded(sample, task, data, (number + 0.5) / max(count, 1))


def prompts(sample: Sample, task: str, data: ConfigDict) -> Iterator[Sample]:
  """A record as training may prepare it, in all wordings and with all droppings."""
  count = math.prod(len(part.variants) or 1 for part in sample.parts)
  kinds = [kind for kind in tasks.DROPPABLE if data.dropout[kind] > 0]
  for number in range(count):
    for worded in wordings(draw_variant(sample, number), task, data):
      for chosen in itertools.product((False, True), repeat=len(kinds)):
        made = worded
        for kind in itertools.compress(kinds, chosen):
          made = tasks.dropped(made, kind, data.empty_prompt)
        yield made
