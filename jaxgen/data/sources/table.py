"""What a table is: random access to the rows of one file."""

import os
from collections.abc import Iterator

from etils import epath

from jaxgen.core.files import in_bucket
from jaxgen.data.sources.fields import Row


class Table:
  """The rows of one file. Its methods may be called by several threads.

  Attributes:
    path: of the file; ``where`` is the same as text, which costs time to make at every row.
    columns: names that occur in it.
    listed: its rows are small, so that all of them can be looked at when it is opened.
  """

  columns: set[str]
  listed = False

  def __init__(self, path: epath.Path):
    self.path, self.where = path, str(path)
    self._name = path.name

  @property
  def is_local(self) -> bool:
    """True for a file of this machine, which can be read at any place at once."""
    return not in_bucket(self.where)

  def __len__(self) -> int:
    raise NotImplementedError

  def __getitem__(self, index: int) -> Row:
    raise NotImplementedError

  def origin(self, index: int) -> str:
    """Where a row stands, for errors: file:line or file: row number."""
    return f'{self.where}: row {index}'

  def name(self, index: int) -> str:
    """What a sample of the row is called where nothing in the row names it."""
    return f'{self._name}:{index}'

  def scan(self, columns: tuple[str, ...]) -> Iterator[Row]:
    """All rows in order, with these columns at least."""
    del columns  # for tables that can leave the others unread
    return (self[index] for index in range(len(self)))

  def read(self, start: int, size: int) -> bytes:
    """Bytes of the file from ``start`` on."""
    if not self.is_local:
      with self.path.open('rb') as file:
        file.seek(start)
        return file.read(size)
    file = os.open(self.where, os.O_RDONLY)
    try:
      return os.pread(file, size, start)
    finally:
      os.close(file)

  def only(self, columns: set[str]) -> 'Table':
    """The same table, of which no other columns will be asked for."""
    del columns
    return self
