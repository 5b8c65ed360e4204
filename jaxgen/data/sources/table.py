"""What a table is: random access to the rows of one file."""

from collections.abc import Iterator

from etils import epath

from jaxgen.data.sources.fields import Row


class Table:
  """The rows of one file. Its methods may be called by several threads.

  Attributes:
    path: of the file.
    columns: names that occur in it.
    listed: its rows are small, so that all of them can be looked at when it is opened.
  """

  path: epath.Path
  columns: set[str]
  listed = False

  def __len__(self) -> int:
    raise NotImplementedError

  def __getitem__(self, index: int) -> Row:
    raise NotImplementedError

  def origin(self, index: int) -> str:
    """Where a row stands, for errors: file:line or file: row number."""
    return f'{self.path}: row {index}'

  def name(self, index: int) -> str:
    """What a sample of the row is called where nothing in the row names it."""
    return f'{self.path.name}:{index}'

  def scan(self, columns: tuple[str, ...]) -> Iterator[Row]:
    """All rows in order, with these columns at least."""
    del columns  # for tables that can leave the others unread
    return (self[index] for index in range(len(self)))

  def only(self, columns: set[str]) -> 'Table':
    """The same table, of which no other columns will be asked for."""
    del columns
    return self
