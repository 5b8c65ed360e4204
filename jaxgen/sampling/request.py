"""Requests: samples whose targets have a size and no pixels, worded as training words them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.data import tasks
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample

Image = bytes | np.ndarray | FileImage


@dataclasses.dataclass(frozen=True)
class Request:
  """One sample to be drawn.

  Attributes:
    sample: as its task leaves it.
    seed, number: key of its noise: the same two give the same images, whatever else is drawn.
    scales: guidance scales by branch: ``text``, ``image``.
  """

  sample: Sample
  seed: int
  number: int
  scales: Mapping[str, float]


def make_request(config: ConfigDict, text: str | None, *, size: tuple[int, int] | None = None,
                 source: Sequence[Image] = (), reference: Sequence[Image] = (),
                 context: Sequence[Image] = (), outputs: int = 1, task: str = 'auto',
                 seed: int = 0, number: int = 0, guidance: float | None = None,
                 image_guidance: float | None = None, name: str = '') -> Request:
  """A request from its pieces.

  Args:
    config: of the run: ``data`` words the prompt, ``sampling`` has the defaults.
    text: what to draw, or the instruction; None is the empty prompt.
    size: (height, width) of every output; None takes ``sampling.size``.
    source, reference, context: images by role.
    outputs: how many images, drawn in one pass.
    task: a key of ``tasks.TASKS``, or ``auto``.
    seed, number: see ``Request``.
    guidance, image_guidance: scales; None takes the config's.
    name: for errors and results; the text unless given.

  Raises:
    UserError: no output, or pieces that do not make up the task.
  """
  if outputs < 1:
    raise user_error('outputs', outputs, 'ask for 1 or more images')
  side = config.sampling.size or config.data.image_size
  name = name or (f'prompt {text!r}' if text is not None else 'empty prompt')
  given = [Part(role, image=image) for role, images in (
      ('source', source), ('reference', reference), ('context', context)) for image in images]
  words = () if text is None else (Part('user', text=text),)
  target = Part('target', loss=True, size=tuple(size or (side, side)))
  sample = Sample(name, (*given, *words, *(target,) * outputs), origin=name)
  sampling = config.sampling
  scales = dict(text=sampling.guidance if guidance is None else guidance,
                image=sampling.image_guidance if image_guidance is None else image_guidance)
  return Request(_worded(sample, task, config.data), seed, number, scales)


def _worded(sample: Sample, task: str, data: ConfigDict) -> Sample:
  """The sample as its task words it; nothing is dropped at random."""
  if not sample.texts and not sample.images[:-len(sample.targets)]:
    return tasks.dropped(sample, 'all', data.empty_prompt)
  kind = tasks.kind_of(sample) if task == 'auto' else task
  return tasks.worded(sample, kind, data)
