"""Encodes every image that a frozen vision tower sees once, into a cache."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.data.example import Encodable
from jaxgen.data.example import Example
from jaxgen.data.example import Patches
from jaxgen.data.example import Size
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.examples import NO_PROMPT
from jaxgen.data.image_tokens import COMMAND
from jaxgen.data.image_tokens import DTYPE
from jaxgen.data.image_tokens import STEM
from jaxgen.data.image_tokens import WIDTH
from jaxgen.data.packing import pack
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.sample import Sample
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.systems.base import System
from jaxgen.training import frozen_groups
from jaxgen.training import visits
from jaxgen.training.filling import begin
from jaxgen.training.filling import Content
from jaxgen.training.filling import Encoded
from jaxgen.training.filling import EVERY
from jaxgen.training.filling import fill
from jaxgen.training.state import make_blueprint


def write_image_tokens(config: ConfigDict, out: str, start: Mapping[str, Any] | None = None,
                       read_external: Callable[[str], Params] | None = None, *, every: int = EVERY
                       ) -> None:
  """``jaxgen data cache --image-tokens``: writes what the vision tower makes of all images.

  Of the language model only the tower is read, and every device runs it on rows as long as those
  of training. Otherwise as ``caching.write_cache``, in whose folder of latents it cannot write.

  Args:
    config, out, start, read_external, every: as for ``caching.write_cache``.

  Raises:
    UserError: as ``caching.write_cache``; a tower that trains, or no image that it sees.
  """
  hosts, system, mesh = begin(config, start, every)
  blueprint = make_blueprint(config, system, needed_groups(system, make_objectives(config)), mesh)
  frozen_groups.check_tower(system, blueprint, out, '--out')
  shape = RowShape.of(config.data, system.layout)
  if not shape.patches:
    raise user_error('--image-tokens', out, 'no source shows the language model an image; there is '
                     'nothing to cache')
  maker = ExampleMaker.of(config, system.layout)

  def wanted(sample: Sample, task: str) -> Iterator[Encodable]:
    for worded in visits.wordings(sample, task, config.data, language=True):
      yield from maker.token_entries(worded)

  stored = frozen_groups.read_tower(config, system, blueprint, read_external)
  fields = fingerprint(config, system, stored)
  tower = _Tower(system, blueprint.quantize(stored), mesh, shape)
  content = Content(fields, visits.open_sources(config, language=True), wanted, tower, STEM,
                    fields[DTYPE])
  fill(out, config.data, content, hosts, every, COMMAND)


def fingerprint(config: ConfigDict, system: System, stored: Params) -> dict[str, Any]:
  """What every entry depends on, by name; see ``frozen_groups.of_group``."""
  return frozen_groups.of_tower(config, system, stored) | {
      WIDTH: config.model.mllm.text.width, DTYPE: jnp.dtype(config.model.compute_dtype).name}


class _Tower:
  """Runs the vision tower on a row of images for each device; see ``filling.Encoding``."""

  def __init__(self, system: System, params: Params, mesh: Mesh, shape: RowShape):
    """Keeps a copy of the tower on every local device.

    Args:
      system: provides ``image_tokens``.
      params: of the tower, global.
      mesh: of the run.
      shape: of a row of it.
    """
    self._devices = np.asarray(mesh.local_devices)
    local = Mesh(self._devices, ('rows',))
    self._split = NamedSharding(local, PartitionSpec('rows'))
    self._params = jax.device_put(multihost_utils.process_allgather(params, tiled=True),
                                  NamedSharding(local, PartitionSpec()))
    self._tokens, self._area = shape.merge**2, system.layout.vision.patch**2
    self._shape = dataclasses.replace(shape, segments=shape.patches // self._tokens,
                                      visual_tokens=0, prompt_tokens=0, towers={})
    rows = PartitionSpec('rows')
    self._program = jax.jit(jax.shard_map(
        system.image_tokens, mesh=local, in_specs=(PartitionSpec(), rows), out_specs=rows,
        check_vma=False))
    self._rows: list[Row] = []

  def holds(self, size: Size) -> bool:
    return size[0] * size[1] <= self._shape.patches * self._area

  def add(self, key: bytes, image: Patches) -> Encoded:
    example = Example(key.hex(), 0, NO_PROMPT, image)
    if self._rows and self._rows[-1].add(example):
      return []
    encoded = self.rest() if len(self._rows) == len(self._devices) else []
    self._rows.append(Row(self._shape))
    self._rows[-1].add(example)
    return encoded

  def rest(self) -> Encoded:
    rows, self._rows = [row.examples for row in self._rows], []
    if not rows:
      return []
    rows += [[]] * (len(self._devices) - len(rows))
    batch = jax.device_put(pack(rows, self._shape).batch.prompt, self._split)
    found = np.asarray(self._program(self._params, batch))  # [rows, T, D]
    encoded = []
    for examples, tokens in zip(rows, found, strict=True):
      counts = [len(example.patches.values) // self._tokens for example in examples]
      parts = np.split(tokens, np.cumsum(counts))
      encoded += [(bytes.fromhex(example.id), part) for example, part in zip(examples, parts)]
    return encoded
