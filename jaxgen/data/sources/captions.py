"""Which caption belongs to which image of a folder, whoever spelt the paths."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from collections.abc import Sequence

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data.sources.base import TEXT_SUFFIX
from jaxgen.data.sources.base import shortened

_DRIVE = re.compile(r'^[A-Za-z][\w+.-]*:/+')  # of Windows, or the scheme of a bucket


def plain_path(path: str) -> str:
  """One spelling for all that mean the same: Unicode composed, ``/`` between steps, no ``./``."""
  path = _DRIVE.sub('/', unicodedata.normalize('NFC', path).replace('\\', '/'))
  return posixpath.normpath(path) if path else ''


class Captions:
  """The captions of the images of one folder.

  Args:
    images: paths relative to the folder.

  Attributes:
    texts: image -> its wordings from tables.
    sidecars: image -> the text file beside it.
    unused: entries of tables, and text files, that are of no image.
  """

  def __init__(self, images: Sequence[str]):
    self.texts: dict[str, tuple[str, ...]] = {}
    self.sidecars: dict[str, str] = {}
    self.unused: list[str] = []
    self._images = images
    self._by_path = {plain_path(name): name for name in images}
    self._cut: int | None = None

  def add(self, table: str, entries: Iterable[tuple[str, tuple[str, ...]]],
          left_out: dict[str, list[str]]) -> None:
    """Adds the captions of a table; several of one image are paraphrases.

    Args:
      table: its path.
      entries: (path of an image, wordings).
      left_out: gets reason -> entries that are not used.

    Raises:
      UserError: not one entry names an image of the folder.
    """
    unknown, bare, known = [], [], 0
    self._cut = None
    for path, wordings in entries:
      image = self._find(path)
      known += image is not None
      if image is None:
        unknown.append(path)
      elif not wordings:
        bare.append(path)
      else:
        self.texts[image] = tuple(dict.fromkeys((*self.texts.get(image, ()), *wordings)))
    if unknown and not known:
      raise user_error(table, len(unknown), f'entries, none of which names an image of the folder: '
                       f'{shortened(unknown)}; write paths relative to it')
    self.unused += unknown
    for reason, paths in ((f'entries of {table} without such an image', unknown),
                          (f'entries of {table} without a "caption"', bare)):
      if paths:
        left_out[reason] = paths

  def add_sidecars(self, folder: epath.Path, files: Sequence[str], left_out: dict[str, list[str]]
                   ) -> None:
    """Adds ``a.txt`` as the caption of ``a.jpg``, in whatever case its suffix is.

    Args:
      folder: of the images.
      files: all files of the folder.
      left_out: gets reason -> text files beside no image.

    Raises:
      UserError: two text files are of one image.
    """
    images: dict[str, list[str]] = {}
    for name in self._images:
      images.setdefault(_stem(name), []).append(name)
    unused = []
    for file in files:
      if not file.lower().endswith(TEXT_SUFFIX):
        continue
      for image in images.get(_stem(file), ()):
        if image in self.sidecars:
          raise user_error(f'{folder}/{file}', None, f'and {self.sidecars[image]} are captions of '
                           'the same image; remove one')
        self.sidecars[image] = file
      if _stem(file) not in images:
        unused.append(file)
    self.unused += unused
    if unused:
      left_out['text files beside no image of their name'] = unused

  def _find(self, path: str) -> str | None:
    """The image that a path means. The first absolute one that leads to an image shows how many
    folders those of the table have too many."""
    path = plain_path(path)
    if not path.startswith('/'):
      return self._by_path.get(path)
    steps = path[1:].split('/')
    for cut in range(len(steps)) if self._cut is None else (self._cut,):
      found = self._by_path.get('/'.join(steps[cut:]))
      if found is not None:
        self._cut = cut
        return found
    return None


def _stem(name: str) -> str:
  return plain_path(name.rpartition('.')[0])
