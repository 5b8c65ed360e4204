"""WebDataset tars: files of one stem are one sample; any of them is read by offset."""

import concurrent.futures
import contextlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket
from jaxgen.core.files import write_bytes
from jaxgen.core.texts import decoded
from jaxgen.core.texts import parsed
from jaxgen.data.sources.base import Chain
from jaxgen.data.sources.base import IMAGE_SUFFIXES
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import Source
from jaxgen.data.sources.base import data_files
from jaxgen.data.sources.base import is_hidden
from jaxgen.data.sources.builders import builder_of
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.rows import RowSource
from jaxgen.data.sources.rows import check_fields
from jaxgen.data.sources.rows import root_of
from jaxgen.data.sources.table import Table

INDEX_SUFFIX = '.index.npz'
IMAGE = 'image'  # stands for the image member, whatever its suffix
TEXTS = ('txt', 'caption', 'cls')
JSON_TEXTS = ('caption', 'prompt', 'text')
_BLOCK = 512
_INDEXERS = 8


class TarTable(Table):
  """One tar. Its rows have the suffixes of the members as columns, and ``image``.

  The places of all members are found once and kept beside the tar, or in memory where that folder
  cannot be written to.

  Args:
    path: of the file; not compressed.

  Raises:
    UserError: it is no tar, or truncated.
  """

  def __init__(self, path: epath.Path):
    super().__init__(path)
    self._stems, self._suffixes, self._places = _index(path)
    self.columns = set(self._suffixes)
    if any(_is_image(suffix) for suffix in self._suffixes):
      self.columns.add(IMAGE)

  def __len__(self) -> int:
    return len(self._stems)

  def __getitem__(self, index: int) -> Row:
    members = {suffix: place for suffix, place in zip(self._suffixes,
                                                      self._places[index].tolist()) if place[0]}
    return _Members(self, self.origin(index), members)

  def name(self, index: int) -> str:
    """tar/stem, because every tar of a set may count its stems from 0 on."""
    return f'{self._name.removesuffix(".tar")}/{self._stems[index].decode()}'

  def origin(self, index: int) -> str:
    """tar: stem."""
    return f'{self.where}: {self._stems[index].decode()}'


class _Members(Mapping):
  """The files of one sample by suffix, read when asked for: texts, JSON values, bytes."""

  def __init__(self, table: TarTable, origin: str, members: dict[str, tuple[int, int]]):
    self._table, self._origin, self._members = table, origin, members
    image = next((suffix for suffix in members if _is_image(suffix)), None)
    self._names = {**{suffix: suffix for suffix in members}, **({IMAGE: image} if image else {})}

  def __getitem__(self, name: str) -> Any:
    suffix = self._names[name]
    data = self._table.read(*self._members[suffix])
    kind, where = suffix.rpartition('.')[2], f'{self._origin}.{suffix}'
    if kind == 'json':
      return parsed(data, where)
    return decoded(data, where).strip() if kind in TEXTS else data

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def __contains__(self, name: object) -> bool:
    return name in self._names  # without reading it


def open_tars(place: Place) -> Source:
  """Samples of tars: a file, a glob, a brace pattern or a folder of them.

  Without ``fields`` the image member is the target, and its caption stands in ``txt``, in
  ``caption``, ``prompt`` or ``text`` of ``json``, or in ``cls``.

  Raises:
    UserError: a tar is damaged, or has no images.
  """
  files = data_files(place, ('.tar',))
  with concurrent.futures.ThreadPoolExecutor(_INDEXERS) as pool:
    tables = list(pool.map(TarTable, files))
  return Chain([_source(table, place) for table in tables])


def _source(table: TarTable, place: Place) -> Source:
  fields = dict(place.fields) or _usual_fields(table)
  if not place.fields and len(table) and IMAGE not in table.columns:
    raise user_error(str(table.path), sorted(table.columns), 'has no images; give fields')
  if place.fields:
    check_fields(table, place)
  return RowSource(table, fields, root_of(table, place), builder_of(fields))


def _usual_fields(table: TarTable) -> dict[str, Names]:
  text = next((suffix for suffix in TEXTS[:2] if suffix in table.columns), None)
  if text is None and 'json' in table.columns and len(table):
    inner = table[0].get('json')
    text = next((f'json.{name}' for name in JSON_TEXTS
                 if isinstance(inner, dict) and name in inner), None)
  if text is None and 'cls' in table.columns:
    text = 'cls'
  return {'target': IMAGE, **({'caption': text} if text else {})}


def _is_image(suffix: str) -> bool:
  return f'.{suffix}'.endswith(IMAGE_SUFFIXES)


def _index(path: epath.Path) -> tuple[np.ndarray, list[str], np.ndarray]:
  """Stems S[n], suffixes [k] and places i64[n, k, 2]: first byte (0 = no such file) and size."""
  beside = epath.Path(f'{path}{INDEX_SUFFIX}')
  stat = path.stat()
  state = f'{stat.length} {stat.mtime}'
  with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
    with np.load(io.BytesIO(beside.read_bytes())) as found:
      if str(found['state']) == state:
        return found['stems'], found['suffixes'].tolist(), found['places']
  stems, suffixes, places = _members(path)
  if not in_bucket(path):
    index = io.BytesIO()
    np.savez(index, state=state, stems=stems, suffixes=np.array(suffixes, str), places=places)
    with contextlib.suppress(UserError, OSError):  # a folder that cannot be written to
      write_bytes(beside, index.getvalue())
  return stems, suffixes, places


def _members(path: epath.Path) -> tuple[np.ndarray, list[str], np.ndarray]:
  """Reads all headers of a tar."""
  found: dict[bytes, dict[str, tuple[int, int]]] = {}
  suffixes: dict[str, None] = {}  # in the order of their first use
  try:
    with path.open('rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
      for member in tar:
        # Names that are not UTF-8 become text that can be written down.
        entry = member.name.removeprefix('./').encode(errors='backslashreplace').decode()
        folder, slash, name = entry.rpartition('/')
        if not member.isreg() or is_hidden(entry):
          continue
        stem, _, suffix = name.partition('.')
        suffixes[suffix.lower()] = None
        place = member.offset_data, member.size
        found.setdefault(f'{folder}{slash}{stem}'.encode(), {})[suffix.lower()] = place
      file.seek(tar.offset)
      ended = file.read(_BLOCK) == bytes(_BLOCK)
  except tarfile.ReadError as error:
    raise user_error(str(path), None, f'is truncated or not an uncompressed tar ({error}); copy '
                     'or download it again') from error
  if not ended:
    raise user_error(str(path), None, 'is truncated or damaged: no end mark after its last file; '
                     'copy or download it again')
  names = list(suffixes)
  places = np.zeros((len(found), len(names), 2), np.int64)
  for row, members in enumerate(found.values()):
    for suffix, place in members.items():
      places[row, names.index(suffix)] = place
  return np.array(list(found), np.bytes_), names, places
