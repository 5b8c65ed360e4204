"""What a row of a table says under a name: texts, images, and where the paths of images lead."""

import json
import re
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import record_error
from jaxgen.core.texts import checked
from jaxgen.core.texts import decoded
from jaxgen.data.sample import FileImage
from jaxgen.data.sources.base import Names

Row = Mapping[str, Any]
Image = bytes | np.ndarray | FileImage

NUMBER = '{n}'  # stands in a name for a number: control_path_{n}
_URL = ('http://', 'https://')


class Root:
  """Turns the paths that a table holds into paths of files.

  A path may be relative to one of several folders, absolute, or absolute on the machine where the
  table was made (``/Echo-4o-Image/images/1.jpg``). Which of these it is, is found out from the
  first path that leads to a file, and holds for the whole table.

  Args:
    folders: that relative paths may start from, the likeliest first.
  """

  def __init__(self, *folders: str):
    self._folders = tuple(folder.rstrip('/') or '/' for folder in folders)
    self._way: tuple[str, int] | None = None
    self.found = False  # some path has led to a file

  @property
  def settled(self) -> bool:
    """True once it is known how paths are meant."""
    return self._way is not None

  def settle(self) -> None:
    """Takes paths as relative to the first folder, if none has led to a file by now."""
    self._way = self._way or (self._folders[0], 0)

  def resolve(self, path: str) -> str:
    """The path of the file."""
    if self._way is None:
      self._way = self._probe(path)
      self.found = self._way is not None
    return _joined(path, *(self._way or (self._folders[0], 0)))

  def name(self, file: str) -> str:
    """The path of a file as the table has it, without folders that are those of this machine."""
    return next((file[len(folder) + 1:] for folder in self._folders
                 if file.startswith(f'{folder.rstrip("/")}/')), file)

  def _probe(self, path: str) -> tuple[str, int] | None:
    ways = [(folder, 0) for folder in self._folders]
    if path.startswith('/'):
      ways = [('', 0)] + [(folder, cut) for cut in range(path.count('/'))
                          for folder in self._folders]
    return next((way for way in ways if epath.Path(_joined(path, *way)).exists()), None)


def _joined(path: str, folder: str, cut: int) -> str:
  """The path without its first ``cut`` folders, below ``folder``; as it is without a folder."""
  if not folder or '://' in path:
    return path
  steps = [step for step in path.split('/') if step not in ('', '.')]
  return '/'.join([folder.rstrip('/'), *steps[cut:]])


def value_of(row: Row, name: str) -> Any:
  """What stands under a name, None for nothing; ``a.b`` is ``b`` of the struct ``a``.

  A name is first taken as it is, since columns may have dots and spaces in their names.
  """
  if name in row:
    return row[name]
  head, dot, rest = name.partition('.')
  while dot:
    inner = row[head] if head in row else None
    if isinstance(inner, (list, tuple)) and rest.isdigit():
      return inner[int(rest)] if int(rest) < len(inner) else None
    if isinstance(inner, Mapping):
      return value_of(inner, rest)
    step, dot, rest = rest.partition('.')
    head = f'{head}.{step}'
  return None


def texts_of(row: Row, names: Names, where: str) -> tuple[str, ...]:
  """All wordings under one name or several: () where there is none.

  A wording may stand as a string, in a list, in a dict, or in a list or dict within a JSON string.

  Args:
    row: of any table.
    names: columns.
    where: of the row, for errors.

  Raises:
    UserError: something else stands there.
  """
  found = []
  for name in _names(names):
    for text in _texts(value_of(row, name), f'{where}: {name}'):
      if text not in found:
        found.append(text)
  return tuple(found)


def images_of(row: Row, names: Names, root: Root, where: str) -> list[Image]:
  """All images under one name or several, in order; [] where there is none.

  An image may stand as bytes, as a path, as a struct of both, or in a list of those.
  ``control_{n}`` stands for ``control_0``, ``control_1`` and so on, from 0 or 1.

  Args:
    row: of any table.
    names: columns.
    root: for the paths.
    where: of the row, for errors.

  Raises:
    UserError: a URL or something else stands there, or a number is missing.
  """
  found: list[Image] = []
  for name in _names(names):
    for one in (_numbered(row, name, where) if NUMBER in name else (name,)):
      found += _images(value_of(row, one), root, f'{where}: {one}')
  return found


def columns_of(columns: set[str], fields: Mapping[str, Any]) -> set[str]:
  """Those columns that fields read."""
  return {column for theirs in fields.values() for name in _names(theirs) for column in columns
          if _reads(name, column)}


def has(columns: set[str], names: Names) -> bool:
  """Whether a table with these columns has one of the names."""
  return bool(columns_of(columns, {'': names}))


def _reads(name: str, column: str) -> bool:
  """Whether a name is that of the column, of a part of it, or has a number where it has one."""
  pattern = re.escape(name).replace(re.escape(NUMBER), r'\d+')
  return bool(name == column or name.startswith(f'{column}.') or re.fullmatch(pattern, column))


def _names(names: Names) -> tuple[str, ...]:
  return (names,) if isinstance(names, str) else tuple(names)


def _numbered(row: Row, name: str, where: str) -> list[str]:
  """The names in the row that differ in a number, in its order, without empty ones."""
  pattern = re.escape(name).replace(re.escape(NUMBER), r'(\d+)')
  found = {}
  for key in row:
    match = re.fullmatch(pattern, key)
    if match and row[key] not in (None, ''):
      found[int(match[1])] = key
  numbers = sorted(found)
  if numbers and (numbers[0] > 1 or numbers[-1] - numbers[0] + 1 != len(numbers)):
    raise record_error(f'{where}: {name}', numbers, 'numbers are missing; they must follow one '
                       'another from 0 or 1 on')
  return [found[number] for number in numbers]


def _texts(value: Any, where: str) -> Iterator[str]:
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, bytes):
    value = decoded(value, where)
  if isinstance(value, str):
    value = _json(value) or value
  if isinstance(value, str):
    yield checked(value, where)
  elif isinstance(value, (dict, list, tuple)):
    for one in value.values() if isinstance(value, dict) else value:
      yield from _texts(one, where)
  elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
    yield str(value)  # an id or a class
  elif value is not None:
    raise record_error(where, value, 'must be a text, or a list of paraphrases')


def _json(text: str) -> list[Any] | dict[str, Any] | None:
  """The list or dict of texts that a JSON string holds; None for a text that is meant as it is."""
  if not text.lstrip().startswith(('[', '{')):
    return None
  try:
    value = json.loads(text)
  except (ValueError, RecursionError):
    return None  # "[v*] on a table" is a caption
  leaves = value.values() if isinstance(value, dict) else value
  return value if value and all(isinstance(leaf, (str, list)) for leaf in leaves) else None


def _images(value: Any, root: Root, where: str) -> list[Image]:
  if value is None or isinstance(value, str) and not value:
    return []
  if isinstance(value, (bytes, FileImage)):
    return [value]
  if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3:
    return [value]
  if isinstance(value, str):
    if value.startswith(_URL):
      raise record_error(where, value, 'is a URL; download the images of this column first, and '
                         'give a table, folder or tar that holds them')
    return [FileImage(root.resolve(checked(value, where)))]
  if isinstance(value, Mapping) and {'bytes', 'path'} & set(value):
    inner = value.get('bytes')
    return _images(value.get('path') if inner is None else inner, root, where)
  if isinstance(value, (list, tuple)):
    return [image for one in value for image in _images(one, root, where)]
  raise record_error(where, value, 'must be an image: a path, bytes, or a struct of bytes and path')
