"""Encodes every image of a config once into a cache, and checks that a cache is a run's."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.data import cache
from jaxgen.data import image_tokens as token_caches
from jaxgen.data import states as state_caches
from jaxgen.data.example import Encodable
from jaxgen.data.example import Size
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Sample
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import partition
from jaxgen.systems.base import System
from jaxgen.training import frozen_groups
from jaxgen.training import image_tokens
from jaxgen.training import states
from jaxgen.training import visits
from jaxgen.training.filling import begin
from jaxgen.training.filling import Content
from jaxgen.training.filling import Encoded
from jaxgen.training.filling import EVERY
from jaxgen.training.filling import fill
from jaxgen.training.latents import Encoder
from jaxgen.training.latents import latent_shape
from jaxgen.training.latents import size_limit
from jaxgen.training.state import AUTOENCODER
from jaxgen.training.state import Blueprint
from jaxgen.training.state import make_blueprint

WAITING = 2.0  # batches of images that wait, where many sizes come by turns


def write_cache(config: ConfigDict, out: str, start: dict[str, Any] | None = None,
                read_external: Callable[[str], Params] | None = None, *, every: int = EVERY
                ) -> None:
  """``jaxgen data cache``: writes the latents of all images that the denoiser may get.

  Every process takes its share of the records of each source and encodes on its own devices with
  the programs of training. Entries that the folder has already are kept, so that the same command
  goes on after an interruption, and adds what another config needs besides.

  Args:
    config: of the run; its mesh must fit the devices here.
    out: folder of the cache.
    start, read_external: see ``jaxgen.training.loop.train``.
    every: entries of a file.

  Raises:
    UserError: a config that does not hold together, a source without an end, missing data or
      weights, a folder with entries of another autoencoder, or a full disk.
  """
  hosts, system, mesh = begin(config, start, every)
  groups = needed_groups(system, make_objectives(config))
  if AUTOENCODER not in groups:
    raise user_error('config.objective.flow_matching', config.objective.flow_matching,
                     'without it no image is encoded; there is nothing to cache')
  maker, sources = ExampleMaker.of(config, system.layout), visits.open_sources(config)

  def wanted(sample: Sample, task: str) -> Iterator[Encodable]:
    for worded in visits.wordings(sample, task, config.data):
      yield from maker.latent_entries(worded)

  blueprint = make_blueprint(config, system, groups, mesh)
  stored = frozen_groups.read_group(config, system, blueprint, AUTOENCODER, read_external)
  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  encoder = Encoder(system, blueprint.quantize(stored), (), rows,
                    latent_shape(config, system), size_limit(config, maker.sizes))
  content = Content(fingerprint(config, system, stored), sources, wanted, _BySize(encoder))
  fill(out, config.data, content, hosts, every, cache.COMMAND)


def for_steps(config: ConfigDict, system: System, blueprint: Blueprint, stored: Params
              ) -> tuple[Blueprint, Params]:
  """What the steps of a run read of its frozen parameters: quantised, and without what caches stand
  for, which was only read to be compared with them and saved.

  Args:
    config: of the run.
    system: of it.
    blueprint: of it.
    stored: frozen parameters as ``blueprint.stored``.

  Returns:
    ``(blueprint, frozen)``, which agree.

  Raises:
    UserError: a cache was written with other weights; names what differs. Or as ``read_by_steps``.
  """
  if config.data.cache:
    cache.check(config.data.cache, fingerprint(config, system, stored))
  if config.data.states:
    cache.check(config.data.states, states.fingerprint(config, system, stored),
                state_caches.FIELD, state_caches.COMMAND)
  if config.data.image_tokens:
    cache.check(config.data.image_tokens, image_tokens.fingerprint(config, system, stored),
                token_caches.FIELD, token_caches.COMMAND)
  return (frozen_groups.read_by_steps(config, system, blueprint),
          blueprint.quantize(frozen_groups.left_over(config, system, stored)))


def fingerprint(config: ConfigDict, system: System, stored: Params) -> dict[str, Any]:
  """What every entry of a cache depends on, by name; see ``frozen_groups.of_group``."""
  latent = system.layout.latent
  return frozen_groups.of_group(config, system, AUTOENCODER, stored) | {
      'pixels along a latent token': latent.factor,
      'channels of a latent token': latent.channels}


class _BySize:
  """Encodes images of one size together, as many as the rows hold; see ``filling.Encoding``."""

  def __init__(self, encoder: Encoder):
    self._encoder = encoder
    self._waiting: dict[Size, list[tuple[bytes, np.ndarray]]] = {}

  def holds(self, size: Size) -> bool:
    return self._encoder.room(size) > 0

  def add(self, key: bytes, image: np.ndarray) -> Encoded:
    self._waiting.setdefault(image.shape[:2], []).append((key, image))
    filled = {size: len(waiting) / self._encoder.room(size)
              for size, waiting in self._waiting.items()}
    fullest = max(filled, key=filled.get)
    if filled[fullest] == 1 or sum(filled.values()) > WAITING:
      return self._encode(fullest)
    return []

  def rest(self) -> Encoded:
    return [entry for size in list(self._waiting) for entry in self._encode(size)]

  def _encode(self, size: Size) -> Encoded:
    keys, images = zip(*self._waiting.pop(size))
    return zip(keys, self._encoder.encode(np.stack(images)), strict=True)
