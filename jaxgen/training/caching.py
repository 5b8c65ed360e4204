"""Encodes every image of a config once into a cache, and checks that a cache is a run's."""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxgen.config import validate
from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.data import cache
from jaxgen.data.commands import Progress
from jaxgen.data.decode import DecodeError
from jaxgen.data.example import Size
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sources import Source
from jaxgen.data.states import FIELD
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import partition
from jaxgen.sharding.hosts import Hosts
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.sharding.processes import start_processes
from jaxgen.systems.base import System
from jaxgen.systems.registry import make_system
from jaxgen.training import frozen_groups
from jaxgen.training import states
from jaxgen.training import visits
from jaxgen.training.latents import Encoder
from jaxgen.training.latents import latent_shape
from jaxgen.training.latents import size_limit
from jaxgen.training.state import AUTOENCODER
from jaxgen.training.state import Blueprint
from jaxgen.training.state import make_blueprint

EVERY = 1024  # entries of a file
AHEAD = 64  # records that are decoded while others are encoded
WAITING = 2.0  # batches of images that wait, where many sizes come by turns
PATIENCE = 7 * 24 * 3600.0  # seconds that hosts wait for the slowest one at the end


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
  validate(config)
  if every < 1:
    raise user_error('--every', every, 'use 1 or more')
  hosts = start_processes(**(start or {}))
  use_compilation_cache()
  system, mesh = make_system(config), make_mesh(config.mesh)
  groups = needed_groups(system, make_objectives(config))
  if AUTOENCODER not in groups:
    raise user_error('config.objective.flow_matching', config.objective.flow_matching,
                     'without it no image is encoded; there is nothing to cache')
  maker, sources = ExampleMaker.of(config, system.layout), visits.open_sources(config)
  blueprint = make_blueprint(config, system, groups, mesh)
  stored = frozen_groups.read_group(config, system, blueprint, AUTOENCODER, read_external)
  fields = fingerprint(config, system, stored)
  if hosts.index == 0:
    cache.claim(out, fields)
  hosts.barrier('cache')
  cache.check(out, fields, '--out')

  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  encoder = Encoder(system, frozen_groups.quantized_groups(config, system, stored), (), rows,
                    latent_shape(config, system), size_limit(config, maker.sizes))
  known = cache.Cache(out, '--out')
  with contextlib.closing(cache.Writer(out, every)) as writer:
    filling = _Filling(config.data, maker, encoder, known, writer)
    filling.run(sources, hosts)
  hosts.barrier('cached', PATIENCE)
  whose = '' if hosts.count == 1 else f', {hosts.label(hosts.index)}'
  print(f'{out}{whose}: {filling.written} entries written, {len(known)} were there; '
        f'{len(filling.broken)} records cannot be used, {filling.large} images are larger than '
        f'a row')
  for name, reason in filling.broken.items():
    print(f'  skipped {name}: {reason}')


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
    cache.check(config.data.states, states.fingerprint(config, system, stored), FIELD)
  frozen, read = blueprint.quantize(stored), frozen_groups.read_by_steps(config, system, blueprint)
  return read, {group: frozen[group] for group in read.frozen}


def fingerprint(config: ConfigDict, system: System, stored: Params) -> dict[str, Any]:
  """What every entry of a cache depends on, by name; see ``frozen_groups.of_group``."""
  latent = system.layout.latent
  return frozen_groups.of_group(config, system, AUTOENCODER, stored) | {
      'pixels along a latent token': latent.factor,
      'channels of a latent token': latent.channels}


class _Filling:
  """Encodes what a cache lacks, as many images of a size at a time as the rows hold.

  Attributes:
    written: entries.
    broken: name -> reason of each record that cannot be decoded.
    large: images that no row holds.
  """

  def __init__(self, data: ConfigDict, maker: ExampleMaker, encoder: Encoder,
               known: cache.Cache, writer: cache.Writer):
    self._data, self._maker, self._encoder = data, maker, encoder
    self._known, self._writer = known, writer
    self._done: set[bytes] = set()
    self._waiting: dict[Size, list[tuple[bytes, np.ndarray]]] = {}
    self.written, self.broken, self.large = 0, {}, 0

  def run(self, sources: Iterable[tuple[Source, str]], hosts: Hosts) -> None:
    """Goes over this process's share of the records of every source; see ``open_sources``."""
    jobs = [(source, task, range(hosts.index * len(source) // hosts.count,
                                 (hosts.index + 1) * len(source) // hosts.count))
            for source, task in sources]
    progress, total = Progress('cached'), sum(len(records) for *_, records in jobs)
    calls = (functools.partial(self._look, source, task, record)
             for source, task, records in jobs for record in records)
    with futures.ThreadPoolExecutor(self._data.threads, 'decode') as pool:
      for number, found in enumerate(_ahead(pool, calls), start=1):
        for key, pixels in found:
          self._add(key, pixels)
        if hosts.index == 0:
          progress(number, total)
    for size in list(self._waiting):
      self._encode(size)

  def _look(self, source: Source, task: str, record: int
            ) -> list[tuple[bytes, np.ndarray | None]]:
    """Keys and pixels of a record's images that the cache lacks; None for one that is broken."""
    name, found = '', []
    try:
      sample = source[record]
      name = sample.origin or sample.id
      for worded in visits.wordings(sample, task, self._data):
        for part, plan in self._maker.to_encode(worded):
          key = self._maker.key(part, plan)
          if key in self._known or key in self._done:
            continue
          if not self._encoder.room(plan.size):
            self.large += 1
            continue
          try:
            found.append((key, self._maker.pixels(part, plan)))
          except DecodeError as error:
            self.broken[name] = str(error)
            found.append((key, None))
    except RecordError as error:
      self.broken[error.where] = error.reason
    except DecodeError as error:  # not even its size or its bytes can be read
      self.broken[name] = str(error)
    return found

  def _add(self, key: bytes, pixels: np.ndarray | None) -> None:
    if key in self._done:
      return
    self._done.add(key)
    if pixels is None:
      self._write(key, np.zeros((0, 0), np.float32))
      return
    self._waiting.setdefault(pixels.shape[:2], []).append((key, pixels))
    filled = {size: len(waiting) / self._encoder.room(size)
              for size, waiting in self._waiting.items()}
    fullest = max(filled, key=filled.get)
    if filled[fullest] == 1 or sum(filled.values()) > WAITING:
      self._encode(fullest)

  def _encode(self, size: Size) -> None:
    waiting = self._waiting.pop(size)
    for (key, _), latents in zip(waiting, self._encoder.encode(
        np.stack([pixels for _, pixels in waiting])), strict=True):
      self._write(key, latents)

  def _write(self, key: bytes, latents: np.ndarray) -> None:
    self._writer.add(key, latents)
    self.written += 1


def _ahead(pool: futures.ThreadPoolExecutor, calls: Iterable[Callable[[], Any]]) -> Iterator[Any]:
  """The results of the calls in their order, some of which are under way meanwhile."""
  running: collections.deque[futures.Future] = collections.deque()
  for call in calls:
    running.append(pool.submit(call))
    if len(running) > AHEAD:
      yield running.popleft().result()
  for future in running:
    yield future.result()
