"""The loader: endless batches whose order depends on the config alone, resumable at any step.

Every global row is a stream of its own. Draw number k of row r takes its source from the mixture
and, of R rows in all, the positions r, r + R, r + 2R, ... of that source's endless sequence, in
which each epoch is reshuffled. No two rows ever share a position. What must be remembered of a
row is how many draws it made, how many positions of each source it used and which of its draws
wait for room: one vector of fixed length, the same whatever process feeds the row. So the state of
all rows is one int array, and a run resumes exactly on any number of processes.
"""

from collections.abc import Sequence
from concurrent import futures

import grain
import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Layout
from jaxgen.data.cache import Cache
from jaxgen.data.example import Example
from jaxgen.data.example import Size
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.image_tokens import ImageTokens
from jaxgen.data.mixture import Mixture
from jaxgen.data.packing import Loaded
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.sequences import open_sequences
from jaxgen.data.states import States
from jaxgen.data.streams import Examples
from jaxgen.data.streams import SOURCES
from jaxgen.data.streams import Stream
from jaxgen.data.streams import Supply


def make_loader(config: ConfigDict, layout: Layout, *, rows: tuple[int, int] | None = None,
                start_step: int = 0, where: str = SOURCES) -> 'Loader':
  """Opens all sources of a config and builds the loader.

  Args:
    config: the whole config.
    layout: sizes of the models.
    rows: the global rows [low, high) that this process feeds; None = all.
    start_step: step of the first batch; it places the batch on the mixture's schedule.
    where: field that the sources come from, for errors.

  Raises:
    UserError: a source that is missing, empty or broken, or sizes that do not divide.
  """
  cache = Cache(config.data.cache) if config.data.cache else None
  states = States(config.data.states) if config.data.states else None
  tokens = ImageTokens(config.data.image_tokens) if config.data.image_tokens else None
  maker = ExampleMaker.of(config, layout, cache, states, tokens)
  sequences = open_sequences(config, sorted(config.data.sources), maker, where)
  return Loader(_Rows(config, rows or (0, config.train.rows), start_step, sequences,
                      maker.row_shape(), maker.pad, where), config.data.prefetch)


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
    """Where the rows stand after the last batch handed out.

    Returns:
      int64[high - low, 1 + sources + 2 K] with ``data.look_ahead`` K, see ``Stream``.
    """
    return self._state.copy()

  def restore(self, state: np.ndarray, step: int) -> None:
    """Goes to where ``state()`` was taken; the next batch is that of ``step``.

    Raises:
      UserError: the state is of another number of rows or sources, or of another look-ahead.
    """
    if state.shape != self._state.shape:
      raise user_error('data state of the checkpoint', list(state.shape),
                       f'this config has {list(self._state.shape)} (rows, 1 + sources + 2 x '
                       'look_ahead); resume with the train.rows, data.sources and data.look_ahead '
                       'that the checkpoint was written with')
    self._state = np.array(state, np.int64)
    self._iterator.set_state({'cursors': self._state.copy(), 'step': int(step)})

  @property
  def image_sizes(self) -> tuple[Size, ...]:
    """(height, width) of all images to be encoded that may ever come."""
    return tuple(sorted({size for sequence in self._rows.supply.sequences
                         for size in sequence.target_sizes}))

  @property
  def records(self) -> dict[str, int]:
    """Number of records of each source."""
    supply = self._rows.supply
    return dict(zip(supply.mixture.names, map(len, supply.sequences), strict=True))

  def report(self) -> dict[str, object]:
    """What happened so far: records and samples skipped by name, epochs of each source, padding."""
    supply = self._rows.supply
    return {
        'skipped': {bad.name: bad.reason for sequence in supply.sequences
                    for bad in sequence.bad.values()},
        'oversize': dict(supply.oversize),
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

  Args:
    config, start_step, where: see ``make_loader``.
    rows: the global rows [low, high).
    sequences: examples of each source by sorted name.
    shape: the sizes of a row.
    pad: token id that fills the prompt.
  """

  def __init__(self, config: ConfigDict, rows: tuple[int, int], start_step: int,
               sequences: Sequence[Examples], shape: RowShape, pad: int, where: str = SOURCES):
    super().__init__()
    data = config.data
    self.low, self.high = rows
    self.steps, self.start_step = config.train.steps, start_step
    self.look_ahead, self.threads = data.look_ahead, data.threads
    assert 0 <= self.low < self.high <= config.train.rows, (rows, config.train.rows)
    mixture = Mixture({name: source.share for name, source in data.sources.items()}, config.seed,
                      data.interpolation)
    self.shape, self.pad = shape, pad
    self.supply = Supply(mixture, sequences, shape, config.train.rows,
                         skip=data.oversize == 'skip', where=where)
    self.pool = futures.ThreadPoolExecutor(data.threads, 'jaxgen-decode')

  def __iter__(self) -> '_RowsIterator':
    return _RowsIterator(self)

  def epochs(self, cursors: np.ndarray) -> dict[str, float]:
    """How often the rows have gone through each source, on average."""
    supply = self.supply
    used = cursors[:, 1:1 + len(supply.sequences)].mean(axis=0) * supply.total_rows
    return {name: float(count / len(sequence))
            for name, count, sequence in zip(supply.mixture.names, used, supply.sequences)}


class _RowsIterator(grain.DatasetIterator):
  """Hands out batches; its state is the cursors of the rows and the step."""

  def __init__(self, rows: _Rows):
    super().__init__()
    self._rows = rows
    first = Stream.start(len(rows.supply.sequences), rows.look_ahead)
    self.set_state({'cursors': np.tile(first, (rows.high - rows.low, 1)), 'step': rows.start_step})

  def __next__(self) -> Loaded:
    rows = self._rows
    progress = min(self._step / rows.steps, 1.0)

    def fill(streams: list[Stream]) -> list[list[Example]]:
      return [stream.fill(progress) for stream in streams]

    # Rows are independent; a run of them goes to each thread, because single rows may be cheap.
    each = -(-len(self._streams) // rows.threads)
    runs = [self._streams[start:start + each] for start in range(0, len(self._streams), each)]
    filled = [row for run in rows.pool.map(fill, runs) for row in run]
    self._step += 1
    return pack(filled, rows.shape, rows.pad, first_row=rows.low)

  def get_state(self) -> dict[str, object]:
    return {'cursors': np.stack([stream.cursor() for stream in self._streams]), 'step': self._step}

  def set_state(self, state: dict[str, object]) -> None:
    rows = self._rows
    self._streams = [Stream(rows.low + index, rows.supply, cursor)
                     for index, cursor in enumerate(np.asarray(state['cursors'], np.int64))]
    self._step = state['step']
