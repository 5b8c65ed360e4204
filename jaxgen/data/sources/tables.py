"""Tables as text: JSON Lines, a JSON list, CSV. A broken line is reported as file:line."""

import codecs
import csv
import io
from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.texts import decoded
from jaxgen.core.texts import is_wide
from jaxgen.core.texts import parsed
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.table import Table


class JsonLines(Table):
  """A JSON Lines file. Of a local file only the places of its lines are kept in memory."""

  listed = True

  def __init__(self, path: epath.Path):
    super().__init__(path)
    self._text = None if self.is_local else path.read_bytes()
    if self._text is None and is_wide(self.read(0, 4)):
      self._text = path.read_bytes()
    if self._text is not None and is_wide(self._text):
      self._text = decoded(self._text, self.where).encode()
    self.columns: set[str] = set()
    places, start = [], 0
    with open(self.where, 'rb') if self._text is None else io.BytesIO(self._text) as file:
      for number, line in enumerate(file, start=1):
        if line.removeprefix(codecs.BOM_UTF8).strip():
          places.append((number, start, len(line)))
          self.columns |= _object(line, f'{self.where}:{number}').keys()
        start += len(line)
    self._places = np.array(places, np.int64).reshape(-1, 3)  # line, first byte, bytes

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> Row:
    line, start, size = self._places[index].tolist()
    text = self.read(start, size) if self._text is None else self._text[start:start + size]
    return _object(text, f'{self.where}:{line}')

  def origin(self, index: int) -> str:
    """file:line."""
    return f'{self.where}:{self._places[index, 0]}'


class Listed(Table):
  """Rows that are held in memory.

  Args:
    path: of the file.
    rows: all of them.
  """

  listed = True

  def __init__(self, path: epath.Path, rows: list[dict[str, Any]]):
    super().__init__(path)
    self._rows = rows
    self.columns = {name for row in rows for name in row}

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Row:
    return self._rows[index]


def read_json(path: epath.Path) -> Listed:
  """A JSON file that holds a list of objects.

  Raises:
    UserError: it holds something else.
  """
  rows = parsed(path.read_bytes(), str(path), '; a file with one object to a line must be named '
                '.jsonl')
  if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
    raise user_error(str(path), None, 'must be a list of objects')
  return Listed(path, rows)


def read_csv(path: epath.Path) -> Listed:
  """A CSV file with a header, or TSV by its suffix. Empty cells are nothing.

  Raises:
    UserError: it is no CSV, or a line has more cells than the header.
  """
  csv.field_size_limit(2**31 - 1)
  text = decoded(path.read_bytes(), str(path))
  reader = csv.DictReader(io.StringIO(text, newline=''),
                          delimiter='\t' if path.suffix.lower() == '.tsv' else ',')
  rows = []
  try:
    names = [name for name in reader.fieldnames or () if name]
    if len(set(names)) < len(names):
      raise user_error(f'{path}:1', names, 'a column stands there twice; name each once')
    for row in reader:
      if None in row:
        raise user_error(f'{path}:{reader.line_num}', row[None], 'more cells than the header has; '
                         'put texts with commas into quotes')
      rows.append({name: cell or None for name, cell in row.items()})
  except csv.Error as error:
    raise user_error(f'{path}:{reader.line_num}', None, f'is not CSV: {error}') from None
  return Listed(path, rows)


def _object(line: bytes, origin: str) -> dict[str, Any]:
  record = parsed(line, origin)
  if not isinstance(record, dict):
    raise user_error(origin, record, 'each line must be one JSON object')
  return record
