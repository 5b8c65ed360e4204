"""Parquet files: row groups are read when a row of them is asked for, and a few are kept."""

import collections
import contextlib
import copy
import threading
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.table import Table

KEPT_BYTES = 2**30  # of all open parquet files of a process together


class Kept:
  """What was loaded last, up to a number of bytes; two threads never load the same thing twice.

  Args:
    limit: bytes. The latest is kept however large it is.
  """

  def __init__(self, limit: int):
    self._limit, self._lock = limit, threading.Lock()
    self._entries: collections.OrderedDict[Hashable, _Entry] = collections.OrderedDict()

  def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
    """What ``load`` gives, which must have ``nbytes``."""
    with self._lock:
      entry = self._entries.setdefault(key, _Entry())
      self._entries.move_to_end(key)
    with entry.lock:
      if entry.value is None:
        entry.value = load()
      value = entry.value
    with self._lock:
      self._drop(key)
    return value

  def _drop(self, latest: Hashable) -> None:
    sizes = {key: entry.value.nbytes for key, entry in self._entries.items()
             if entry.value is not None}
    for key, size in list(sizes.items()):
      if sum(sizes.values()) <= self._limit:
        break
      if key != latest:
        del self._entries[key], sizes[key]


class _Entry:

  def __init__(self):
    self.value, self.lock = None, threading.Lock()


_KEPT = Kept(KEPT_BYTES)


class ParquetTable(Table):
  """One parquet file.

  A row costs the reading of its whole row group, of the wanted columns only: sets that are
  visited in random order are better packed first (``jaxgen data pack``).

  Args:
    path: of the file.
    kept: where row groups are kept; shared by all files unless a test has its own.
  """

  def __init__(self, path: epath.Path, kept: Kept = _KEPT):
    super().__init__(path)
    self._kept = kept
    self._key = object()  # a rewritten file is another one
    with self._opened() as file:
      self.columns = set(file.schema_arrow.names)
      groups = range(file.metadata.num_row_groups)
      counts = [file.metadata.row_group(group).num_rows for group in groups]
      if min(counts, default=0) < 0:
        raise ValueError(f'row groups of {counts} rows')
      self._ends = np.cumsum(counts)
    self._wanted: list[str] | None = None

  def only(self, columns: set[str]) -> Table:
    """The same file; the other columns are not read."""
    table = copy.copy(self)
    table._wanted = sorted(columns & self.columns)
    return table

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> Row:
    group = int(np.searchsorted(self._ends, index, side='right'))
    before = int(self._ends[group - 1]) if group else 0
    rows = self._kept.get((self._key, group, tuple(self._wanted or ())),
                          lambda: self._read(group))
    try:
      return rows.slice(index - before, 1).to_pylist()[0]
    except (ValueError, LookupError) as error:  # no UTF-8, or fewer rows than the file promises
      raise record_error(self.origin(index), None, f'cannot be read ({error})') from None

  def scan(self, columns: tuple[str, ...]) -> Iterator[Row]:
    """All rows with these columns alone."""
    with self._opened() as file:
      for batch in file.iter_batches(columns=[name for name in columns if name in self.columns]):
        yield from batch.to_pylist()

  def _read(self, group: int) -> Any:
    with self._opened() as file:
      return file.read_row_group(group, columns=self._wanted)

  @contextlib.contextmanager
  def _opened(self) -> Iterator[Any]:
    """The file, opened for this call alone: readers are not made for several threads."""
    # Imported here: only this kind of source needs it.
    import pyarrow
    from pyarrow import parquet
    try:
      with contextlib.ExitStack() as stack:
        # Of a local file pyarrow reads without Python in between.
        where = self.where if self.is_local else stack.enter_context(self.path.open('rb'))
        yield stack.enter_context(parquet.ParquetFile(where))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
      reason = ' '.join(str(error).split())[:100]
      raise user_error(self.where, None, f'is not a whole parquet file ({reason}); copy or '
                       'download it again') from error
