"""Fills a cache: goes over the records of a config, and encodes the images that it lacks."""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.config import validate
from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.data import cache
from jaxgen.data.commands import Progress
from jaxgen.data.decode import DecodeError
from jaxgen.data.example import Encodable
from jaxgen.data.example import Size
from jaxgen.data.sample import Sample
from jaxgen.data.sources import Source
from jaxgen.sharding.hosts import Hosts
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.sharding.processes import start_processes
from jaxgen.systems.base import System
from jaxgen.systems.registry import make_system

EVERY = 1024  # entries of a file
AHEAD = 64  # records that are decoded while others are encoded
PATIENCE = 7 * 24 * 3600.0  # seconds that hosts wait for the slowest one at the end
Encoded = Iterable[tuple[bytes, np.ndarray]]  # key and values of each entry


class Encoding(Protocol):
  """Encodes images with the devices of this process, as many at a time as there is room for."""

  def holds(self, size: Size) -> bool:
    """Whether there is room for an image of the size at all."""

  def add(self, key: bytes, image: Any) -> Encoded:
    """Takes an image as ``Encodable.read`` gives it, and hands out what was encoded for it."""

  def rest(self) -> Encoded:
    """Encodes what still waits."""


@dataclasses.dataclass(frozen=True)
class Content:
  """What a cache is filled with.

  Attributes:
    fields: what all entries depend on, by name.
    sources: the sources of the records, with their tasks.
    wanted: record and its task -> the images of which entries are wanted.
    encoding: makes the entries.
    stem: of the files.
    dtype: of the values.
  """

  fields: dict[str, Any]
  sources: Sequence[tuple[Source, str]]
  wanted: Callable[[Sample, str], Iterable[Encodable]]
  encoding: Encoding
  stem: str = cache.LATENTS
  dtype: str = 'float32'


def begin(config: ConfigDict, start: Mapping[str, Any] | None, every: int
          ) -> tuple[Hosts, System, Mesh]:
  """Checks the config and starts the process; ``(hosts, system, mesh)`` of a command that fills.

  Args:
    config: of the run.
    start: see ``jaxgen.training.loop.train``.
    every: entries of a file.

  Raises:
    UserError: a config that does not hold together, or no entries in a file.
  """
  validate(config)
  if every < 1:
    raise user_error('--every', every, 'use 1 or more')
  hosts = start_processes(**(start or {}))
  use_compilation_cache()
  return hosts, make_system(config), make_mesh(config.mesh)


def fill(folder: str, data: ConfigDict, content: Content, hosts: Hosts, every: int, command: str
         ) -> None:
  """Adds what a folder lacks; every process takes its share of the records of each source.

  Args:
    folder: of the cache; all processes see it.
    data: ``config.data``.
    content: of the cache.
    hosts: the processes.
    every: entries of a file.
    command: that fills it, for errors.

  Raises:
    UserError: a folder with entries that depend on other fields, or a full disk.
  """
  if hosts.index == 0:
    cache.claim(folder, content.fields, command)
  hosts.barrier('cache')
  cache.check(folder, content.fields, '--out', command)
  known = cache.Cache(folder, '--out', content.stem, command=command)
  with contextlib.closing(cache.Writer(folder, every, content.stem, content.dtype)) as writer:
    filling = _Filling(data, content, known, writer)
    filling.run(hosts)
  hosts.barrier('cached', PATIENCE)
  whose = '' if hosts.count == 1 else f', {hosts.label(hosts.index)}'
  print(f'{folder}{whose}: {filling.written} entries written, {len(known)} were there; '
        f'{len(filling.broken)} records cannot be used, {filling.large} images are larger than '
        f'a row')
  for name, reason in filling.broken.items():
    print(f'  skipped {name}: {reason}')


class _Filling:
  """Encodes what a cache lacks.

  Attributes:
    written: entries.
    broken: name -> reason of each record that cannot be decoded.
    large: images that no row holds.
  """

  def __init__(self, data: ConfigDict, content: Content, known: cache.Cache, writer: cache.Writer):
    self._threads, self._content = data.threads, content
    self._known, self._writer = known, writer
    self._done: set[bytes] = set()
    self._lock = threading.Lock()  # of what the threads that decode count
    self.written, self.broken, self.large = 0, {}, 0

  def run(self, hosts: Hosts) -> None:
    """Goes over this process's share of the records of every source."""
    jobs = [(source, task, range(hosts.index * len(source) // hosts.count,
                                 (hosts.index + 1) * len(source) // hosts.count))
            for source, task in self._content.sources]
    progress, total = Progress('cached'), sum(len(records) for *_, records in jobs)
    calls = ((source, task, record) for source, task, records in jobs for record in records)
    with futures.ThreadPoolExecutor(self._threads, 'decode') as pool:
      for number, found in enumerate(_ahead(pool, self._look, calls), start=1):
        for key, image in found:
          self._add(key, image)
        if hosts.index == 0:
          progress(number, total)
    self._write(self._content.encoding.rest())

  def _look(self, source: Source, task: str, record: int) -> list[tuple[bytes, Any]]:
    """Keys and images of a record that the cache lacks; None for an image that is broken."""
    name, found = '', []
    try:
      sample = source[record]
      name = sample.origin or sample.id
      for image in self._content.wanted(sample, task):
        if image.key in self._known or image.key in self._done:
          continue
        if not self._content.encoding.holds(image.size):
          with self._lock:
            self.large += 1
          continue
        try:
          found.append((image.key, image.read()))
        except DecodeError as error:
          self.broken[name] = str(error)
          found.append((image.key, None))
    except RecordError as error:
      self.broken[error.where] = error.reason
    except DecodeError as error:  # not even its size or its bytes can be read
      self.broken[name] = str(error)
    return found

  def _add(self, key: bytes, image: Any) -> None:
    if key in self._done:
      return
    self._done.add(key)
    if image is None:
      self._write([(key, np.zeros((0, 0), np.float32))])
    else:
      self._write(self._content.encoding.add(key, image))

  def _write(self, encoded: Encoded) -> None:
    for key, values in encoded:
      self._writer.add(key, values)
      self.written += 1


def _ahead(pool: futures.ThreadPoolExecutor, function: Callable[..., Any],
           calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
  """The results of the calls in their order, some of which are under way meanwhile."""
  running: collections.deque[futures.Future] = collections.deque()
  for call in calls:
    running.append(pool.submit(function, *call))
    if len(running) > AHEAD:
      yield running.popleft().result()
  for future in running:
    yield future.result()
