"""Recognises what a user hands over: the kind of a path, and the layout of a table by its columns.

The layouts are those in which other trainers take a user's own data; one word often means opposite
things in two of them, so a layout is told by several names together.
"""

import dataclasses
from collections.abc import Callable

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data import sample as samples
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import Chain
from jaxgen.data.sources.base import IMAGE_SUFFIXES
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import Source
from jaxgen.data.sources.base import data_files
from jaxgen.data.sources.base import existing
from jaxgen.data.sources.base import files_below
from jaxgen.data.sources.base import is_hidden
from jaxgen.data.sources.base import is_pattern
from jaxgen.data.sources.builders import At
from jaxgen.data.sources.builders import builder_of
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.fields import has
from jaxgen.data.sources.folder import CAPTIONS_JSON
from jaxgen.data.sources.folder import CAPTIONS_LINES
from jaxgen.data.sources.folder import UNREAD_SUFFIXES
from jaxgen.data.sources.folder import control_folders
from jaxgen.data.sources.parquet import ParquetTable
from jaxgen.data.sources.rows import RowSource
from jaxgen.data.sources.rows import mapped
from jaxgen.data.sources.rows import root_of
from jaxgen.data.sources.table import Table
from jaxgen.data.sources.tables import JsonLines
from jaxgen.data.sources.tables import read_csv
from jaxgen.data.sources.tables import read_json

# Suffix of a file -> kind of source.
KIND_OF = {'.jsonl': 'jsonl', '.json': 'json', '.csv': 'csv', '.tsv': 'csv',
           '.parquet': 'parquet', '.tar': 'tar', '.arrayrecord': 'arrayrecord'}
_READERS: dict[str, Callable[[epath.Path], Table]] = {
    'jsonl': JsonLines, 'json': read_json, 'csv': read_csv, 'parquet': ParquetTable}
_CONTAINERS = ('arrayrecord', 'tar', 'parquet')


@dataclasses.dataclass(frozen=True)
class Layout:
  """A convention for the columns of a table.

  Attributes:
    name: whose it is, for messages.
    needs: columns that tell it from the others.
    fields: our names -> theirs; what a table lacks of them is left out.
  """

  name: str
  needs: tuple[str, ...]
  fields: dict[str, Names]


LAYOUTS = (
    Layout('LLaVA, UniWorld', ('conversations',),
           {'images': 'image', 'conversations': 'conversations'}),
    Layout('BAGEL, edits', ('image_list', 'instruction_list'),
           {'images': 'image_list', 'instructions': 'instruction_list'}),
    Layout('BAGEL, text to image', ('image', 'captions'),
           {'target': 'image', 'caption': 'captions'}),
    Layout('UNO', ('image_tgt_path', 'prompt'),
           {'inputs': ('image_path', 'image_paths'), 'target': 'image_tgt_path',
            'instruction': 'prompt'}),
    Layout('ShareGPT-4o-Image', ('input_prompt', 'output_image'),
           {'inputs': 'input_image', 'target': 'output_image', 'instruction': 'input_prompt'}),
    Layout('OmniGen, OmniGen2, X2I2, Echo-4o', ('instruction', 'output_image'),
           {'inputs': 'input_images', 'target': 'output_image', 'instruction': 'instruction'}),
    Layout('musubi-tuner', ('image_path', 'caption'),
           {'inputs': ('control_path', 'control_path_{n}'), 'target': 'image_path',
            'caption': 'caption'}),
    Layout('DiffSynth-Studio', ('image', 'prompt'),
           {'inputs': 'edit_image', 'target': 'image', 'instruction': 'prompt'}),
    Layout('plain', ('image', 'caption'), {'target': 'image', 'caption': 'caption'}),
    Layout('plain', ('image', 'text'), {'target': 'image', 'caption': 'text'}),
)


def open_table(kind: str, place: Place) -> Source:
  """A table file, or a glob or folder of them, read by ``place.fields`` or by its layout.

  Args:
    kind: ``jsonl``, ``json``, ``csv`` or ``parquet``.
    place: of the files.

  Raises:
    UserError: no layout is recognised, or a row or file is not as it should be.
  """
  suffixes = tuple(suffix for suffix, of in KIND_OF.items() if of == kind)
  single = kind != 'parquet' and not is_pattern(place.path)
  if single and existing(place.path, place.field).is_dir():
    raise user_error(place.field, place.path, f'is a folder; name the {suffixes[0]} file, or use '
                     'kind auto or folder')
  return Chain([_open(_READERS[kind](file), place) for file in data_files(place, suffixes)])


def open_rows(place: Place) -> Table:
  """The rows of one table file, whatever its columns.

  Raises:
    UserError: no such file, or one of another kind.
  """
  file = existing(place.path, place.field)
  kind = KIND_OF.get(file.suffix.lower())
  if kind not in _READERS:
    raise user_error(place.field, place.path, f'no table; use one of {", ".join(sorted(_READERS))}')
  return _READERS[kind](file)


def layout_of(columns: set[str]) -> Layout | None:
  """The layout that a table with these columns has, None for none."""
  return next((layout for layout in LAYOUTS if set(layout.needs) <= columns), None)


def kind_of(place: Place) -> str:
  """The kind of source that a path is.

  Raises:
    UserError: there is nothing at the path, nothing that is known, or several things.
  """
  path = epath.Path(place.path)
  if is_pattern(place.path) or not existing(place.path, place.field).is_dir():
    kind = KIND_OF.get(path.suffix.lower())
    if kind is None:
      raise user_error(place.field, place.path, f'of unknown kind; known are {", ".join(KIND_OF)} '
                       'and folders')
    return kind
  return 'tfds' if (path / 'dataset_info.json').exists() else _kind_of_folder(path, place)


def recognised(place: Place) -> str:
  """What kind ``auto`` takes a path for: the kind, and the layout of the columns of a table.

  Raises:
    UserError: as ``kind_of``.
  """
  kind = kind_of(place)
  if kind == 'table':
    place = dataclasses.replace(place, path=str(main_table(epath.Path(place.path))))
    kind = kind_of(place)
  if kind not in _READERS:
    return kind
  files = data_files(place, tuple(suffix for suffix, of in KIND_OF.items() if of == kind))
  table = _READERS[kind](files[0])
  if place.fields or table.listed and _is_own(table.columns):
    return f'{kind}, columns by {"fields" if place.fields else "names of our own"}'
  layout = layout_of(table.columns)
  return f'{kind}, columns as in {layout.name}' if layout else kind


def main_table(folder: epath.Path) -> epath.Path | None:
  """The one table at the top of a folder that describes its images; None where there is none."""
  found = [file for file in folder.iterdir() if KIND_OF.get(file.suffix.lower()) in
           ('jsonl', 'json', 'csv') and not is_hidden(file.name) and
           file.name not in (CAPTIONS_LINES, CAPTIONS_JSON)]
  named = [file for file in found if file.stem == 'metadata']
  found = named or found
  return found[0] if len(found) == 1 else None


def _open(table: Table, place: Place) -> Source:
  if place.fields:
    return mapped(table, place)
  if table.listed and (_is_own(table.columns) or not len(table)):
    return RowSource(table, {}, root_of(table, place), _own(table, place), check=True,
                     check_files='parts' in table.columns)
  layout = layout_of(table.columns)
  if not layout and len(table):
    raise user_error(str(table.path), sorted(table.columns), 'columns of no known layout; say '
                     'with fields which is what')
  fields = {ours: theirs for ours, theirs in (layout.fields if layout else {}).items()
            if has(table.columns, theirs)}
  if 'id' in table.columns:
    fields['id'] = 'id'
  return RowSource(table, fields, root_of(table, place), builder_of(fields), check=True,
                   check_files=True)


def _is_own(columns: set[str]) -> bool:
  """Our own full form, or the short one where no further column could be the caption."""
  return bool({'parts', 'file'} & columns) or (
      'image' in columns and columns <= {'image', 'caption', 'id'})


def _own(table: Table, place: Place) -> Callable[..., Sample]:
  """Reads our own JSON forms."""
  folder = place.root or str(table.path.parent)

  def build(row: Row, fields: object, at: At) -> Sample:
    del fields
    return samples.from_json(dict(row), at.origin, folder)
  return build


def _kind_of_folder(folder: epath.Path, place: Place) -> str:
  target = place.fields.get('target')
  if control_folders(folder) or isinstance(target, str) and (folder / target).is_dir():
    return 'controls'
  kinds, images, unread = set(), False, set()
  for file in files_below(folder):
    kind = KIND_OF.get(file.suffix.lower())
    kinds |= {kind} if kind in _CONTAINERS else set()
    images = images or file.name.lower().endswith(IMAGE_SUFFIXES)
    unread |= {file.suffix.lower()} & set(UNREAD_SUFFIXES)
  if len(kinds) > 1:
    raise user_error(place.field, place.path, f'holds files of several kinds, {sorted(kinds)}; '
                     'name the kind, or a path that leads to one of them')
  if kinds:
    return kinds.pop()
  if main_table(folder):
    return 'table'
  if images:
    return 'folder'
  advice = f'; convert the images of {", ".join(sorted(unread))}' if unread else ''
  raise user_error(place.field, place.path, 'nothing known in it: no images, tables, tars, parquet '
                   f'or ArrayRecord files{advice}')
