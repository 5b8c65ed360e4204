"""The loader: endless batches whose order depends on the config alone, resumable at any step.

Every global row is a stream of its own. Draw number k of row r takes its source from the mixture
and, of R rows in all, the positions r, r + R, r + 2R, ... of that source's endless sequence, in
which each epoch is shuffled anew. No two rows ever share a position. What must be remembered of a
row is how many draws it made and how many positions of each source it used: one short vector, the
same whatever process feeds the row. So the state of all rows is one int array, and a run resumes
exactly on any number of processes.
"""

import logging
import zlib
from collections.abc import Iterator
from concurrent import futures

import grain
import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Layout
from jaxgen.data.buckets import Size
from jaxgen.data.examples import Bad
from jaxgen.data.examples import DecodedSource
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.mixture import Mixture
from jaxgen.data.packing import Example
from jaxgen.data.packing import Loaded
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.prompts import PromptWriter
from jaxgen.data.sources import open_source
from jaxgen.data.tokenizer import load_tokenizer

# Grain shuffles up to 32 bits of index; the shapes, which are more, come in random order anyway.
_SHUFFLE_LIMIT = 2**31


def make_loader(config: ConfigDict, layout: Layout, *, rows: tuple[int, int] | None = None,
                start_step: int = 0) -> 'Loader':
  """Opens all sources of a config and builds the loader.

  Args:
    config: the whole config.
    layout: sizes of the models.
    rows: the global rows [low, high) that this process feeds; None = all.
    start_step: step of the first batch; it places the batch on the mixture's schedule.

  Raises:
    UserError: a source that is missing, empty or broken, or sizes that do not divide.
  """
  return Loader(_Rows(config, layout, rows or (0, config.train.rows), start_step),
                config.data.prefetch)


class Loader:
  """An endless iterator of ``Loaded``, one per optimizer step."""

  def __init__(self, rows: '_Rows', prefetch: int):
    self._rows = rows
    self._iterator = grain.experimental.ThreadPrefetchIterDataset(
        rows, prefetch_buffer_size=prefetch).__iter__()
    self._state = self._iterator.get_state()['cursors']
    self._batches, self._padding = 0, 0.0

  def __iter__(self) -> 'Loader':
    return self

  def __next__(self) -> Loaded:
    loaded = next(self._iterator)
    self._state = self._iterator.get_state()['cursors']
    self._batches += 1
    self._padding += loaded.padding_share
    return loaded

  def state(self) -> np.ndarray:
    """Where the rows stand after the last batch handed out; int64[high - low, 1 + sources]."""
    return self._state.copy()

  def restore(self, state: np.ndarray, step: int) -> None:
    """Goes to where ``state()`` was taken; the next batch is that of ``step``.

    Raises:
      UserError: the state is of another number of rows or sources.
    """
    if state.shape != self._state.shape:
      raise user_error('data state of the checkpoint', list(state.shape),
                       f'this config has {list(self._state.shape)} (rows, 1 + sources); resume '
                       'with the train.rows and data.sources that the checkpoint was written with')
    self._state = np.array(state, np.int64)
    self._iterator.set_state({'cursors': self._state.copy(), 'step': int(step)})

  @property
  def image_sizes(self) -> tuple[Size, ...]:
    """(height, width) of all images to be generated that may ever come."""
    return tuple(sorted({size for source in self._rows.sources for size in source.target_sizes}))

  def report(self) -> dict[str, object]:
    """What happened so far: skipped files by name, epochs seen of each source, padding."""
    return {
        'skipped': {bad.name: bad.reason for source in self._rows.sources
                    for bad in source.bad.values()},
        'epochs': self._rows.epochs(self.state()),
        'padding_share': self._padding / max(self._batches, 1),
    }

  def close(self) -> None:
    """Stops the threads; the loader gives no more batches, but state and report remain."""
    self._iterator.close()
    # Let go of now: Grain's destructor fails when the interpreter is shutting down.
    self._iterator = iter(())
    self._rows.pool.shutdown(cancel_futures=True)


class _Rows(grain.IterDataset):
  """The rows of one process as a Grain dataset: all that does not change from step to step.

  Attributes:
    low, high: the global rows of this process, of ``total_rows``.
    sources, sequences: decoded records and endless examples of each source, by sorted name.
  """

  def __init__(self, config: ConfigDict, layout: Layout, rows: tuple[int, int], start_step: int):
    super().__init__()
    data, seed = config.data, config.seed
    self.low, self.high = rows
    self.total_rows, self.steps, self.start_step = config.train.rows, config.train.steps, start_step
    assert 0 <= self.low < self.high <= self.total_rows, (rows, self.total_rows)
    self.shape = RowShape.of(data, layout)
    tokenizer = load_tokenizer(data.tokenizer)
    self.pad = tokenizer.pad
    self.mixture = Mixture({name: source.share for name, source in data.sources.items()}, seed)
    writer = PromptWriter(tokenizer, layout.vision_tokens, data)
    self.sources, self.sequences = [], []
    for index, name in enumerate(self.mixture.names):
      spec, field = data.sources[name], f'config.data.sources.{name}.path'
      source = open_source(spec.kind, spec.path, split=spec.split, limit=spec.limit,
                           size=data.image_size, seed=seed, field=field)
      logging.info('data source %s: %d samples, task %s', name, len(source), spec.task)
      self.sources.append(DecodedSource(source, spec.task, data, field))
      maker = ExampleMaker(index, spec.task, writer, data.caption_dropout, seed)
      order = zlib.crc32(f'{seed}/{name}'.encode())
      self.sequences.append(_endless(self.sources[-1], maker, order))
    self.pool = futures.ThreadPoolExecutor(data.threads, 'jaxgen-decode')
    self.threads = data.threads

  def __iter__(self) -> '_RowsIterator':
    return _RowsIterator(self)

  def fill(self, row: int, cursor: np.ndarray, progress: float) -> list[Example]:
    """Fills a global row with its next samples and moves its cursor, int64[1 + sources].

    A sample that no longer fits stays where it is and opens the next row.
    """
    filling = Row(self.shape)
    while not filling.full:
      before = cursor.copy()
      if not filling.add(self._next(row, cursor, progress)):
        cursor[:] = before
        break
    return filling.examples

  def _next(self, row: int, cursor: np.ndarray, progress: float) -> Example:
    """The next example of a row; broken records are passed over."""
    source = self.mixture.draw(row, int(cursor[0]), progress)
    cursor[0] += 1
    while True:
      position = row + self.total_rows * int(cursor[1 + source])
      cursor[1 + source] += 1
      example = self.sequences[source][position]
      if not isinstance(example, Bad):
        return example

  def epochs(self, cursors: np.ndarray) -> dict[str, float]:
    """How often the rows have gone through each source, on average."""
    used = cursors[:, 1:].mean(axis=0) * self.total_rows
    return {name: float(count / len(source))
            for name, count, source in zip(self.mixture.names, used, self.sources)}


class _RowsIterator(grain.DatasetIterator):
  """Hands out batches; its state is the cursors of the rows and the step."""

  def __init__(self, rows: _Rows):
    super().__init__()
    self._rows = rows
    self._cursors = np.zeros((rows.high - rows.low, 1 + len(rows.sequences)), np.int64)
    self._step = rows.start_step

  def __next__(self) -> Loaded:
    rows = self._rows
    progress = min(self._step / rows.steps, 1.0)
    count = rows.high - rows.low

    def fill(some: range) -> list[list[Example]]:
      return [rows.fill(rows.low + row, self._cursors[row], progress) for row in some]

    # Rows are independent; a run of them goes to each thread, because single rows may be cheap.
    each = -(-count // rows.threads)
    runs = [range(start, min(start + each, count)) for start in range(0, count, each)]
    filled = [row for run in rows.pool.map(fill, runs) for row in run]
    self._step += 1
    return pack(filled, rows.shape, rows.pad)

  def get_state(self) -> dict[str, object]:
    return {'cursors': self._cursors.copy(), 'step': self._step}

  def set_state(self, state: dict[str, object]) -> None:
    self._cursors, self._step = np.array(state['cursors'], np.int64), state['step']


def _endless(source: DecodedSource, maker: ExampleMaker, seed: int) -> grain.MapDataset:
  """The source's records for ever, each epoch in another order, as examples."""
  dataset = grain.MapDataset.source(source)
  if len(source) < _SHUFFLE_LIMIT:
    dataset = dataset.shuffle(seed=seed)
  return dataset.repeat().map_with_index(maker)
