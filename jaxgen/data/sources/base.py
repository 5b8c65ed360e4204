"""What all sources share: the protocol, where a source lies, and the files behind a path."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket
from jaxgen.data.sample import Sample

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.jfif', '.png', '.webp', '.avif', '.gif', '.bmp', '.tif',
                  '.tiff', '.ppm')
TEXT_SUFFIX = '.txt'
_FILE_SUFFIXES = (*IMAGE_SUFFIXES, TEXT_SUFFIX, '.json', '.jsonl', '.csv', '.tsv', '.parquet',
                  '.tar', '.arrayrecord')
# A file that belongs to one of these is told by a word of its path between '/', '-', '_' and '.'.
SPLITS = {'train': ('train', 'training'), 'test': ('test',),
          'validation': ('validation', 'valid', 'val', 'dev')}
# Copies and thumbnails that macOS and network storage put into folders of images.
_COPIES = ('__MACOSX', '@eaDir')
_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')
_CHOICE = re.compile(r'\{([^{}]*,[^{}]*)\}')

Names = str | tuple[str, ...]  # one column, or several


class Source(Protocol):
  """A sequence of samples; ``source[i]`` is the same sample at every call, from any thread."""

  def __len__(self) -> int:
    ...

  def __getitem__(self, index: int) -> Sample:
    ...


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a source lies and how its records are named.

  Attributes:
    path: folder, file, glob, brace pattern or TFDS name.
    split: ``train``, ``test`` or ``validation``, where the kind knows splits.
    field: config field or flag that holds the path, for errors.
    fields: our name of a field -> their name or names; empty = recognised by the names.
    root: folder that relative image paths start from; '' = beside the file that names them.
  """

  path: str
  split: str = 'train'
  field: str = '--path'
  fields: Mapping[str, Names] = dataclasses.field(default_factory=dict)
  root: str = ''


class First:
  """The first ``limit`` samples of another source."""

  def __init__(self, source: Source, limit: int):
    self._source, self._limit = source, limit

  def __len__(self) -> int:
    return self._limit

  def __getitem__(self, index: int) -> Sample:
    if not 0 <= index < self._limit:
      raise IndexError(index)
    return self._source[index]


class Sized:
  """Another source, whose targets are to have one size.

  Args:
    source: of samples.
    size: (height, width) in pixels.
  """

  def __init__(self, source: Source, size: tuple[int, int]):
    self._source, self._size = source, size

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Sample:
    sample = self._source[index]
    return dataclasses.replace(sample, parts=tuple(
        dataclasses.replace(part, size=self._size) if part.role == 'target' else part
        for part in sample.parts))


class Chain:
  """Several sources, one after the other."""

  def __init__(self, sources: Sequence[Source]):
    self._sources = sources
    self._ends = np.cumsum([len(source) for source in sources])

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> Sample:
    if not 0 <= index < len(self):
      raise IndexError(index)
    number = int(np.searchsorted(self._ends, index, side='right'))
    before = int(self._ends[number - 1]) if number else 0
    return self._sources[number][index - before]


def existing(path: str, field: str) -> epath.Path:
  """The path.

  Raises:
    UserError: there is nothing.
  """
  found = epath.Path(path)
  if not found.exists():
    raise user_error(field, path, 'no such file or folder; check the path')
  return found


def existing_folder(path: str, field: str) -> epath.Path:
  """The path.

  Raises:
    UserError: there is nothing, or a file.
  """
  found = existing(path, field)
  if not found.is_dir():
    raise user_error(field, path, 'is not a folder; use kind auto, or the kind of this file')
  return found


def data_files(place: Place, suffixes: tuple[str, ...]) -> list[epath.Path]:
  """The files of a source, sorted: a file, a glob, a brace pattern or all below a folder.

  Of a folder whose files are divided into splits, those of the wanted split are taken.

  Args:
    place: path, split and field are used.
    suffixes: of the files that a folder is searched for.

  Raises:
    UserError: no such file, or none of the wanted split.
  """
  if is_pattern(place.path):
    return _matching(place)
  path = existing(place.path, place.field)
  if not path.is_dir():
    return [path]
  found = sorted(file for file in files_below(path) if file.name.lower().endswith(suffixes))
  if not found:
    raise user_error(place.field, place.path, f'no {suffixes[0]} file in it; check the path and '
                     'the kind')
  return of_split(found, path, place)


def of_split(files: list[epath.Path], folder: epath.Path, place: Place) -> list[epath.Path]:
  """Files of the wanted split; all of them where no path names a split.

  Args:
    files: below the folder.
    folder: what their paths are judged relative to.
    place: split, path and field are used.

  Raises:
    UserError: there are splits, but not the wanted one.
  """
  splits = [_split_of(str(file.relative_to(folder))) for file in files]
  if not any(splits):
    return files
  wanted = [file for file, split in zip(files, splits) if split in (place.split, None)]
  if place.split not in splits:
    raise user_error(place.field, place.path, f'has no files of the split {place.split!r}, only of '
                     f'{sorted({split for split in splits if split})}')
  return wanted


def is_pattern(path: str) -> bool:
  """True for a glob or a brace pattern such as ``data_{000000..000045}.tar``."""
  return any(sign in path for sign in '*?[') or bool(_RANGE.search(path) or _CHOICE.search(path))


def expand_braces(pattern: str) -> list[str]:
  """``a{08..10}`` -> ``a08 a09 a10``, ``{a,b}`` -> ``a b``; several braces multiply."""
  found = _RANGE.search(pattern)
  if found:
    low, high = found.groups()
    values = [f'{number:0{len(low)}d}' for number in range(int(low), int(high) + 1)]
  else:
    found = _CHOICE.search(pattern)
    if not found:
      return [pattern]
    values = found[1].split(',')
  head, tail = pattern[:found.start()], pattern[found.end():]
  return [one for value in values for one in expand_braces(f'{head}{value}{tail}')]


def is_hidden(path: str) -> bool:
  """True where a step of a relative path is hidden, or a folder of copies (``__MACOSX``)."""
  return any(step.startswith('.') and step not in ('.', '..') or step in _COPIES
             for step in path.split('/'))


def files_below(folder: epath.Path, left_out: dict[str, list[str]] | None = None
                ) -> Iterator[epath.Path]:
  """Files below a folder without the hidden ones. A folder that is reached again by a link, and
  files whose names are not UTF-8, are left out.

  Args:
    folder: where to look.
    left_out: gets reason -> names of what is left out, other than hidden files.

  Raises:
    UserError: a folder cannot be listed.
  """
  # Real folders first, so that files keep the names that they have there.
  folders, links, seen = [folder], [], set()
  left_out = {} if left_out is None else left_out
  while folders or links:
    links.sort(reverse=True)
    current = folders.pop() if folders else links.pop()
    real = str(current) if in_bucket(current) else os.path.realpath(current)
    if real in seen:
      left_out.setdefault('folders that a link leads to again', []).append(str(current))
      continue
    seen.add(real)
    for entry, is_folder, is_link in _entries(current):
      if is_hidden(entry.name):
        continue
      if not _is_unicode(entry.name):
        shown = entry.name.encode(errors='backslashreplace').decode()
        left_out.setdefault('names that are not UTF-8', []).append(shown)
      elif is_folder:
        (links if is_link else folders).append(entry)
      else:
        yield entry


def warn_left_out(path: str, left_out: Mapping[str, Sequence[str]]) -> None:
  """Logs how many files and entries of a source are not used, and the first names."""
  for reason, names in left_out.items():
    logging.warning('%s: left out %d %s: %s', path, len(names), reason, shortened(sorted(names)))


def _is_unicode(name: str) -> bool:
  try:
    name.encode()
  except UnicodeEncodeError:
    return False
  return True


def _entries(folder: epath.Path) -> Iterator[tuple[epath.Path, bool, bool]]:
  """What a folder holds: path, whether it is a folder, whether it is a link. Neither files nor
  folders, such as pipes, are left out."""
  if in_bucket(folder):
    for entry in folder.iterdir():
      # Asking a remote store about every entry would take a request each.
      yield entry, not entry.name.lower().endswith(_FILE_SUFFIXES) and entry.is_dir(), False
    return
  try:
    with os.scandir(folder) as entries:
      for entry in entries:
        # A link may lead to itself, of which os.path.isdir makes no error.
        is_link = entry.is_symlink()
        is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
        if is_folder or is_link or entry.is_file():
          yield folder / entry.name, is_folder, is_link
  except OSError as error:
    raise user_error(str(folder), None, f'cannot be listed ({error.strerror}); mend its '
                     'permissions, or leave it out') from None


def shortened(names: Sequence[str]) -> str:
  """The first names of a list for a message, and how many more there are."""
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(names[:5]) + more


def _matching(place: Place) -> list[epath.Path]:
  found = []
  for pattern in expand_braces(place.path):
    if any(sign in pattern for sign in '*?['):
      # The parts of the path before the first sign are a folder; the rest is a glob below it.
      parts = pattern.split('/')
      first = next(at for at, part in enumerate(parts) if any(sign in part for sign in '*?['))
      folder = epath.Path('/'.join(parts[:first]) or ('/' if pattern.startswith('/') else '.'))
      found += sorted(file for file in folder.glob('/'.join(parts[first:]))
                      if not is_hidden(str(file.relative_to(folder))))
    else:
      found.append(existing(pattern, place.field))
  if not found:
    raise user_error(place.field, place.path, 'no file matches the pattern; check the path')
  return found


def _split_of(name: str) -> str | None:
  words = set(re.split(r'[/\-_.]', name.lower()))
  return next((split for split, names in SPLITS.items() if words & set(names)), None)
