"""A source made of the rows of a table, whatever file holds them."""

from collections.abc import Callable
from collections.abc import Mapping

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import shortened
from jaxgen.data.sources.builders import At
from jaxgen.data.sources.builders import Build
from jaxgen.data.sources.builders import FIELDS
from jaxgen.data.sources.builders import builder_of
from jaxgen.data.sources.fields import Root
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.fields import columns_of
from jaxgen.data.sources.fields import has
from jaxgen.data.sources.table import Table

# Rows that are looked at to find out how the paths of a table are meant.
_PROBED = 16


class RowSource:
  """The samples that the rows of a table stand for.

  Args:
    table: of any kind.
    fields: our names -> theirs.
    root: of the paths in it.
    build: makes a sample of a row.
    views: samples that one row gives.
    keep: rows that it is false for are left out, judged by the columns ``judged``.
    judged: see ``keep``.
    check: every row of a table that is ``listed`` is read now, so that a broken one is reported
      before training starts.
    check_files: and files that its rows name must be there.

  Raises:
    UserError: a row is not as it should be, or files are missing.
  """

  def __init__(self, table: Table, fields: Mapping[str, Names], root: Root, build: Build, *,
               views: int = 1, keep: Callable[[Row], bool] | None = None,
               judged: tuple[str, ...] = (), check: bool = False,
               check_files: bool = False):
    self._table = table.only(columns_of(table.columns, fields))
    self._fields, self._root, self._build = fields, root, build
    self._views = views
    self._rows = None
    if keep is not None:
      self._rows = np.flatnonzero([keep(row) for row in table.scan(judged)])
    for index in range(min(len(self), _PROBED)):
      if root.settled:
        break
      self[index]
    root.settle()
    if check and table.listed:
      _check(self, str(table.path), check_files)

  def __len__(self) -> int:
    return self._views * (len(self._table) if self._rows is None else len(self._rows))

  def __getitem__(self, index: int) -> Sample:
    if not 0 <= index < len(self):
      raise IndexError(index)
    number, view = divmod(index, self._views)
    row = number if self._rows is None else int(self._rows[number])
    at = At(self._table.origin(row), self._table.name(row), self._root, view)
    return self._build(self._table[row], self._fields, at)


def mapped(table: Table, place: Place) -> RowSource:
  """The samples of a table whose columns are named by ``place.fields``.

  Raises:
    UserError: a field of ours that does not exist, or one of theirs that the table lacks.
  """
  check_fields(table, place)
  return RowSource(table, place.fields, root_of(table, place), builder_of(place.fields),
                   check=True, check_files=True)


def check_fields(table: Table, place: Place) -> None:
  """Both sides of ``place.fields`` exist.

  Raises:
    UserError: naming the unknown field, and what there is.
  """
  for ours, theirs in place.fields.items():
    if ours not in FIELDS:
      raise user_error(f'{place.field}: fields', ours, f'use one of {", ".join(FIELDS)}')
    if len(table) and not has(table.columns, theirs):
      raise user_error(f'{place.field}: fields.{ours}', theirs, f'no such column in {table.path}; '
                       f'it has {", ".join(sorted(table.columns))}')
  if not {'target', 'context', 'conversations', 'images'} & set(place.fields):
    raise user_error(f'{place.field}: fields', sorted(place.fields), 'name the column of the '
                     'target image (or context, images, conversations)')


def root_of(table: Table, place: Place) -> Root:
  """Paths start from ``place.root``, or else beside the table or one folder higher."""
  if place.root:
    return Root(place.root)
  return Root(str(table.path.parent), str(table.path.parent.parent))


def _check(source: RowSource, path: str, files: bool) -> None:
  """Every row is as it should be and, if asked, every file there; each folder is listed once."""
  listed: dict[str, set[str]] = {}
  missing = []
  for index in range(len(source)):
    sample = source[index]
    for file in [part.image.path for part in sample.images if isinstance(part.image, FileImage)]:
      folder, _, name = file.rpartition('/')
      if files and name not in _names_in(folder, listed):
        missing.append(f'{file} ({sample.origin.rpartition("/")[2]})')
  if missing:
    raise user_error(path, len(missing), f'images that it names are missing: {shortened(missing)}; '
                     'add them, remove their lines, or set root to the folder they start from')


def _names_in(folder: str, listed: dict[str, set[str]]) -> set[str]:
  if folder not in listed:
    place = epath.Path(folder)
    listed[folder] = {file.name for file in place.iterdir()} if place.is_dir() else set()
  return listed[folder]
