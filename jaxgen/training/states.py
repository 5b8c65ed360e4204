"""Computes the conditioning of every prompt of a config once, into a cache."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Params
from jaxgen.data import cache
from jaxgen.data.commands import Progress
from jaxgen.data.decode import DecodeError
from jaxgen.data.example import Example
from jaxgen.data.example import SampleConditioning
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.fitted import Fitted
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.sample import Sample
from jaxgen.data.states import COMMAND
from jaxgen.data.states import ConditioningShape
from jaxgen.data.states import SHAPE
from jaxgen.data.states import STEM
from jaxgen.data.states import States
from jaxgen.data.states import to_bytes
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import partition
from jaxgen.systems.base import System
from jaxgen.training import frozen_groups
from jaxgen.training import visits
from jaxgen.training.filling import EVERY
from jaxgen.training.filling import begin
from jaxgen.training.state import make_blueprint


def write_states(config: ConfigDict, out: str, start: Mapping[str, Any] | None = None,
                 read_external: Callable[[str], Params] | None = None, *, every: int = EVERY
                 ) -> None:
  """``jaxgen data cache --states``: writes the conditioning of all prompts of a config.

  Every wording of every record is computed once, with all droppings that ``data.dropout`` allows.
  Entries that the folder has already are kept. Only the models that compute them are loaded, and
  they are gone from the devices afterwards.

  Args:
    config, out, start, read_external, every: as for ``caching.write_cache``.

  Raises:
    UserError: as ``caching.write_cache``; such models that train, images that are masked at random,
      or several processes.
  """
  hosts, system, mesh = begin(config, start, every)
  if hosts.count > 1:
    raise user_error('--states', out, 'is written by one process; start one alone')
  blueprint = make_blueprint(config, system, needed_groups(system, make_objectives(config)), mesh)
  frozen_groups.check_frozen(system, blueprint, out)
  stored: Params = {}
  for group in frozen_groups.conditioning_groups(system):
    stored |= frozen_groups.read_group(config, system, blueprint, group, read_external)
  cache.claim(out, fingerprint(config, system, stored), COMMAND)
  known = States(out, '--out')
  latents = cache.Cache(config.data.cache) if config.data.cache else None
  maker = ExampleMaker.of(config, system.layout, latents)
  params = blueprint.quantize(stored)
  condition = _Conditioner(config, system, params, mesh, maker.pad)
  with contextlib.closing(cache.Writer(out, every, STEM)) as writer:
    filling = _Filling(config, maker, condition, known, writer)
    filling.run()
  print(f'{out}: {filling.written} prompts written, {len(known)} were there; {len(filling.broken)} '
        'records cannot be used')
  for name, reason in filling.broken.items():
    print(f'  skipped {name}: {reason}')


def fingerprint(config: ConfigDict, system: System, stored: Params) -> dict[str, Any]:
  """What every entry depends on, by name, as values of JSON; see ``frozen_groups.of_group``."""
  fields = {'config.model.guidance': config.model.guidance,
            SHAPE: dataclasses.asdict(conditioning_shape(config, system))}
  for group in frozen_groups.conditioning_groups(system):
    fields |= frozen_groups.of_group(config, system, group, stored)
  return fields


def conditioning_shape(config: ConfigDict, system: System) -> ConditioningShape:
  """The sizes of the conditioning of one sample of a config."""
  return ConditioningShape.of(jax.eval_shape(
      system.condition, system.shapes(), pack([[]], _shape(config, system)).batch))


class _Conditioner:
  """Runs ``System.condition`` on batches of prompts, one to a row.

  Attributes:
    rows: prompts of a batch.
  """

  def __init__(self, config: ConfigDict, system: System, params: Params, mesh: Mesh, pad: int):
    self.rows = config.train.rows
    self._shape, self._pad, self._mesh, self._params = _shape(config, system), pad, mesh, params
    self._sharding = partition.row_sharding(mesh, self.rows)
    self._condition = jax.jit(system.condition)

  def __call__(self, examples: Sequence[Example]) -> list[SampleConditioning]:
    """The conditioning of each of up to ``rows`` examples."""
    alone = [[dataclasses.replace(example, images=())] for example in examples]
    alone += [[]] * (self.rows - len(examples))
    batch = partition.to_global(pack(alone, self._shape, self._pad).batch, self._sharding,
                                self.rows)
    with partition.scope(self._mesh):
      conditioning = jax.device_get(self._condition(self._params, batch))
    return [_of_row(conditioning, row) for row in range(len(examples))]


class _Filling:
  """Computes what a cache lacks, a batch of prompts at a time.

  Attributes:
    written: entries.
    broken: name -> reason of each record that cannot be used.
  """

  def __init__(self, config: ConfigDict, maker: ExampleMaker, condition: _Conditioner,
               known: States, writer: cache.Writer):
    self._config, self._maker, self._condition = config, maker, condition
    self._known, self._writer = known, writer
    self._done: set[bytes] = set()
    self._waiting: list[tuple[bytes, Example]] = []
    self.broken: dict[str, str] = {}

  @property
  def written(self) -> int:
    return len(self._done)

  def run(self) -> None:
    """Goes over all records of every source."""
    for source, task in visits.open_sources(self._config):
      progress = Progress('prompts encoded')
      for record in range(len(source)):
        name = f'record {record}'
        try:
          sample = source[record]
          name = sample.origin or sample.id
          kept: Fitted = {}
          # Kept by identity, so all of them live until the last one is added.
          for prepared in list(visits.prompts(sample, task, self._config.data)):
            self._add(prepared, kept)
        except (RecordError, DecodeError) as error:
          self.broken[name] = str(error)
        progress(record + 1, len(source))
    self._write()

  def _add(self, prepared: Sample, kept: Fitted) -> None:
    example = self._maker(prepared, kept=kept)
    if self._config.model.mask_ratio and example.patches.maskable.any():
      raise user_error('--states', prepared.id, 'shows the language model an image that each step '
                       'masks in another way; leave out sources of task image')
    key = self._maker.prompt_key(prepared, example)
    if key in self._known or key in self._done:
      return
    self._done.add(key)
    self._waiting.append((key, example))
    if len(self._waiting) == self._condition.rows:
      self._write()

  def _write(self) -> None:
    if self._waiting:
      found = self._condition([example for _, example in self._waiting])
      for (key, _), entry in zip(self._waiting, found, strict=True):
        self._writer.write(key, to_bytes(entry))
    self._waiting.clear()


def _shape(config: ConfigDict, system: System) -> RowShape:
  """Rows of one sample without images of the denoiser."""
  shape = RowShape.of(config.data, system.layout)
  return dataclasses.replace(shape, segments=1, visual_tokens=0)


def _of_row(conditioning: Conditioning, row: int) -> SampleConditioning:
  """That of a row with one sample."""
  shown = conditioning.segments[row] > 0

  def first(values):
    return None if values is None else np.asarray(values[row, 0])

  pads = conditioning.pads
  return SampleConditioning(
      np.asarray(conditioning.states[row][shown]), np.asarray(conditioning.positions[row][shown]),
      first(conditioning.pooled), first(conditioning.guidance),
      None if pads is None else np.asarray(pads[row][shown]))
