"""The endless examples of every source of a config, its records reshuffled in every epoch."""

import dataclasses
import logging
import threading
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TypeVar

import grain
from ml_collections import ConfigDict

from jaxgen.config.schema import LANGUAGE_TASKS
from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.data import tasks
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import file_bytes
from jaxgen.data.example import Example
from jaxgen.data.example import Size
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Sample
from jaxgen.data.sample import draw_variant
from jaxgen.data.sources import Source
from jaxgen.data.sources import open_source
from jaxgen.data.sources.base import Sized
from jaxgen.data.streams import SOURCES

# A small data set is decoded once and kept, as far as there is room; a large one is not.
KEPT_RECORDS, KEPT_BYTES = 20_000, 256 * 2**20
# A set of up to this many records is judged as a whole, a larger one from this many tries on.
JUDGED_FROM = 1000
# Grain shuffles up to 32 bits of index; the shapes, which are more, come in random order anyway.
SHUFFLE_LIMIT = 2**31
Found = TypeVar('Found')


@dataclasses.dataclass(frozen=True)
class Bad:
  """A record that cannot be used."""

  name: str
  reason: str


def open_sequences(config: ConfigDict, names: Sequence[str], maker: ExampleMaker,
                   where: str = SOURCES) -> list['ExampleSequence']:
  """Opens the named sources of a config; ``where`` is the field that they come from, for errors.

  Raises:
    UserError: a source that is missing, empty or broken.
  """
  sequences = []
  for index, name in enumerate(names):
    spec, field = config.data.sources[name], f'{where}.{name}.path'
    source = open_spec(spec, config, field)
    logging.info('data source %s: %d samples, task %s', name, len(source), spec.task)
    order = zlib.crc32(f'{config.seed}/{name}'.encode())
    sequences.append(ExampleSequence(source, index, spec.task, maker, config, order, field))
  return sequences


def open_spec(spec: ConfigDict, config: ConfigDict, field: str) -> Source:
  """Opens the source that one ``source(...)`` of a config describes."""
  source = open_source(spec.kind, spec.path, split=spec.split, limit=spec.limit,
                       fields=spec.fields, root=spec.root, size=config.data.image_size,
                       seed=config.seed, field=field)
  return Sized(source, tuple(spec.size)) if spec.size else source


def readable(source: Source, count: int, read: Callable[[Sample], Found]
             ) -> Iterator[tuple[int, Found]]:
  """The first ``count`` records of a source as ``read`` makes them, without broken ones.

  Yields:
    The number of a record, and what was made of it.
  """
  for index in range(min(count, len(source))):
    try:
      found = read(source[index])
    except (DecodeError, RecordError):
      continue
    yield index, found


class ExampleSequence:
  """The examples of one source for ever; counts and names the records that are broken.

  Args:
    source: of samples.
    number: index of the source in the mixture.
    task: what its records become.
    maker: of the examples.
    config: of the run: prompts, rates and ``max_bad_share``.
    order: seed of the shuffles.
    field: config field of the source, for errors.

  Attributes:
    bad: record -> what is wrong with it.
    target_sizes: (height, width) of the images that the denoiser may get.
  """

  def __init__(self, source: Source, number: int, task: str, maker: ExampleMaker,
               config: ConfigDict, order: int, field: str):
    self._source, self._number, self._task, self._maker = source, number, task, maker
    self._data, self._seed, self._field = config.data, config.seed, field
    self._records = _endless(len(source), order)
    self._keep = len(source) <= KEPT_RECORDS
    self._kept: dict[int, tuple[Sample, dict]] = {}
    self._kept_bytes = 0
    self._lock = threading.Lock()
    self._tried: set[int] = set()
    self.bad: dict[int, Bad] = {}
    self.target_sizes: Sequence[Size] = () if task in LANGUAGE_TASKS else maker.sizes

  def __len__(self) -> int:
    return len(self._source)

  def record(self, position: int) -> int:
    """The record at a position: each epoch goes through all of them in another order."""
    return int(self._records[position])

  def __getitem__(self, position: int) -> Example | Bad:
    """The example at a position; it stands for record and epoch, so that another epoch draws other
    paraphrases, targets and droppings.

    A record that was broken before is tried again, so that a resumed run, which knows of none, goes
    the same way: another visit may draw a wording or a target of it that is whole.
    """
    index, record = self.record(position), None
    try:
      record, fitted = self._kept.get(index) or (self._source[index], {})
      before = len(fitted)
      sample = tasks.prepare(draw_variant(record, position // len(self)), self._task, self._data,
                             self._seed, self._number, position)
      example = self._maker(sample if self._keep else _read(sample), self._number, fitted)
    except (DecodeError, RecordError) as error:
      return self._set_aside(index, _bad(record, error))
    with self._lock:
      if len(self._tried) <= JUDGED_FROM:
        self._tried.add(index)
      if self._keep and len(fitted) > before:
        self._remember(index, record, fitted, before)
    return example

  def _remember(self, index: int, record: Sample, fitted: dict, before: int) -> None:
    """Keeps the record, by whose images the fitted copies are known, while there is room."""
    added = sum(pixels.nbytes for pixels in list(fitted.values())[before:])
    if self._kept_bytes + added <= KEPT_BYTES:
      self._kept_bytes += added
      self._kept[index] = (record, fitted)

  def _set_aside(self, index: int, bad: Bad) -> Bad:
    """Counts and logs a record that turns out to be broken."""
    with self._lock:
      known = index in self.bad
      self._tried.add(index)
      self.bad[index] = bad
    if not known:
      logging.warning('skipped %s: %s', bad.name, bad.reason)
    self._judge()
    return bad

  def _judge(self) -> None:
    """Stops the run when too many records are broken, or all of them."""
    with self._lock:
      count, records = len(self.bad), min(len(self), max(len(self._tried), JUDGED_FROM))
      latest = list(self.bad.values())[-5:]
    if count > self._data.max_bad_share * records or count == len(self):
      named = ', '.join(f'{item.name} ({item.reason})' for item in latest)
      raise user_error(self._field, None, f'{count} of {records} records cannot be used, more '
                       f'than config.data.max_bad_share = {self._data.max_bad_share} allows: '
                       f'{named}; mend or remove them, or raise the share')


def _bad(record: Sample | None, error: DecodeError | RecordError) -> Bad:
  """What is wrong with a record, which is None where it could not even be read."""
  name = '' if record is None else record.origin or record.id
  if isinstance(error, RecordError) and error.where.startswith(name):
    return Bad(error.where, error.reason)
  return Bad(name, str(error))


def _read(sample: Sample) -> Sample:
  """The sample with its files read: sizes, views and latents of an image then cost one access."""
  read: dict[int, bytes] = {}

  def loaded(part):
    if not isinstance(part.image, FileImage):
      return part
    key = id(part.image)  # an image that is both shown and drawn stays one
    if key not in read:
      read[key] = file_bytes(part.image)
    return dataclasses.replace(part, image=read[key])

  return dataclasses.replace(sample, parts=tuple(map(loaded, sample.parts)))


def _endless(count: int, seed: int) -> Sequence[int]:
  """Record numbers for ever, each epoch in another order."""
  if count >= SHUFFLE_LIMIT:
    return range(count)
  return grain.MapDataset.range(count).shuffle(seed=seed).repeat()
