"""What ``--in`` may be: files of a folder, rows of a table, samples of any source of jaxgen.

A reader takes the path and returns a sequence of records, each of which is read when it is asked
for. Licences and addresses stand in ``sources.jsonl`` in the folder, lines of ``{"file": ...,
"url": ..., "licence": ...}``, or in the columns ``url`` and ``licence`` of a table; other columns
become fields.
"""

import functools
from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxgen.core.errors import record_error
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.curation.record import UNKNOWN
from jaxgen.curation.recipe import Reader
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import image_file
from jaxgen.data.sources import open_source
from jaxgen.data.sources import Source
from jaxgen.data.sources.base import existing
from jaxgen.data.sources.base import files_below
from jaxgen.data.sources.base import is_hidden
from jaxgen.data.sources.base import IMAGE_SUFFIXES
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.fields import images_of
from jaxgen.data.sources.fields import Root
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.layouts import open_rows
from jaxgen.data.sources.table import Table
from jaxgen.data.sources.tables import JsonLines

FACTS = 'sources.jsonl'
VIDEOS = ('.mp4', '.mkv', '.webm', '.mov', '.avi', '.m4v', '.mpg', '.mpeg', '.ts', '.flv')
IMAGES = IMAGE_SUFFIXES
PAGES = ('.html', '.htm', '.xhtml')


def files(*suffixes: str) -> Reader:
  """Files below a folder with one of the suffixes, or one file; fields ``path`` and ``name``."""
  return functools.partial(_Files, suffixes=suffixes)


def rows(path: str) -> Sequence[Record]:
  """Rows of a JSON Lines, JSON, CSV or parquet file; each column is a field."""
  return _Rows(path)


def pictures(*columns: str) -> Reader:
  """Rows as ``rows`` gives them, where these columns are images: files beside the table or bytes;
  their fields are bytes of image files."""
  return functools.partial(_Rows, pictures=columns)


def samples(kind: str = 'auto', **options: Any) -> Reader:
  """Samples of a source of jaxgen, or of a public set by its name; the field is ``sample``.

  Args:
    kind: as ``config.data.sources``.
    options: of ``open_source``.
  """
  return lambda path: _Samples(open_source(kind, path, field='--in', **options), path)


def listed(*ids: str) -> Reader:
  """Records without any input, whose ids stand in the recipe."""
  return lambda path: [Record(name, {}, Lineage(name)) for name in ids]


class _Files(Sequence):
  """See ``files``."""

  def __init__(self, path: str, suffixes: tuple[str, ...]):
    top = existing(path, '--in')
    self._folder = top if top.is_dir() else top.parent
    start = len(str(self._folder)) + 1
    found = files_below(top) if top.is_dir() else [top]
    # Strings: a list of millions of paths is all that is held of them.
    self._names = sorted(name for name in (str(file)[start:] for file in found)
                         if name.lower().endswith(suffixes) and not is_hidden(name))
    facts = self._folder / FACTS
    self._facts = JsonLines(facts) if facts.exists() else None
    self._lines = {row.get('file'): number for number, row in enumerate(
        self._facts.scan(('file',)))} if self._facts else {}

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index):
    name = self._names[index]
    row = dict(self._facts[self._lines[name]]) if name in self._lines else {}
    row.pop('file', None)
    lineage = Lineage(name, row.pop('licence', None) or UNKNOWN, row.pop('url', None) or '')
    return Record(name, {**row, 'path': str(self._folder / name), 'name': name}, lineage)


class _Rows(Sequence):
  """See ``rows``."""

  def __init__(self, path: str, pictures: Sequence[str] = ()):
    self._table: Table = open_rows(Place(path, field='--in'))
    self._root, self._pictures = Root(str(self._table.path.parent)), pictures

  def __len__(self) -> int:
    return len(self._table)

  def __getitem__(self, index):
    row, origin = dict(self._table[_checked(index, self)]), self._table.origin(index)
    name = str(row.pop('id', None) or self._table.name(index))
    row |= {column: self._picture(row, column, origin) for column in self._pictures}
    lineage = Lineage(origin, row.pop('licence', None) or UNKNOWN,
                      row.pop('url', None) or '')
    return Record(name, row, lineage)

  def _picture(self, row: Row, column: str, origin: str) -> bytes:
    found = images_of(row, column, self._root, origin)
    try:
      image, = found
      return image_file(image)
    except (ValueError, DecodeError) as error:
      raise record_error(f'{origin}: {column}', None, f'must be one image that can be read '
                         f'({error})') from None


class _Samples(Sequence):
  """See ``samples``."""

  def __init__(self, source: Source, path: str):
    self._source, self._path = source, path

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index):
    sample = self._source[_checked(index, self)]
    known = dict(sample.lineage)
    lineage = Lineage(sample.origin or f'{epath.Path(self._path).name}: {sample.id}',
                      known.get('licence', UNKNOWN), known.get('url', ''), known.get('notes', {}))
    return Record(sample.id, dict(sample=sample), lineage)


def _checked(index: int, records: Sequence) -> int:
  """Tables and sources have no end of their own that a loop could stop at."""
  if not 0 <= index < len(records):
    raise IndexError(index)
  return index
