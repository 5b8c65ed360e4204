"""Views of one object in order, and what the camera does between them (L018).

iMontage (section 3.2.2) takes MVImgNet's videos of objects, of which COLMAP has found the cameras:
one base view, one to four further ones. The paper has the motion told by GPT-4o; here it is
computed.
"""

import os
import re
from collections.abc import Iterator
from collections.abc import Sequence

from etils import epath

from jaxgen.curation.cameras import between
from jaxgen.curation.cameras import Camera
from jaxgen.curation.cameras import motion
from jaxgen.curation.cameras import read_cameras
from jaxgen.curation.cameras import world_of
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.sources.base import existing_folder
from jaxgen.data.sources.base import is_hidden
from jaxgen.data.wordings import numbered

CATEGORIES = 'mvimgnet_category.txt'
_SPARSE = ('sparse', '0')
_CATEGORY = re.compile(r'\s*(\d+)[\s,:;]+(\S.*?)\s*')


def read_objects(path: str) -> Sequence[Record]:
  """The objects of MVImgNet: folders ``class/instance`` with ``images`` and ``sparse/0``.

  Fields are ``folder`` and ``object``, the name of the class by ``mvimgnet_category.txt``.
  """
  top = existing_folder(path, '--in')
  names = _categories(top / CATEGORIES)
  return [Record(name, dict(folder=str(folder), object=names.get(folder.parent.name, 'object')),
                 Lineage(name))
          for folder in sorted(_captured(top))
          for name in [str(folder.relative_to(top)) if folder != top else top.name]]


def chosen(record: Record, *, least: int = 1, most: int = 4, degrees: float = 10.0, seed: int = 0
           ) -> Record | Dropped:
  """Draws a base view and further ones in the order of the video, and tells the camera's motion.

  Args:
    record: of ``read_objects``. It gets ``given``, ``targets`` and ``instruction``: each view is
      told from the one before it.
    least, most: further views.
    degrees: between the directions of two views that follow each other in the video, at the least;
      those between are passed over.
    seed: of the draw.
  """
  folder = epath.Path(record['folder'])
  cameras = [camera for camera in read_cameras(folder.joinpath(*_SPARSE))
             if (folder / 'images' / camera.name).exists()]
  if len(cameras) <= least:
    return record.drop('few views', views=len(cameras))
  world, apart = world_of(cameras), _apart(cameras, degrees)
  if len(apart) <= least:
    return record.drop('still camera', views=len(cameras))
  rng = record.rng(seed)
  count = int(rng.integers(least, min(most, len(apart) - 1) + 1))
  places = sorted(rng.choice(len(apart), count + 1, replace=False))
  views = [apart[place] for place in places]
  said = [motion(one, other, world, record['object']) for one, other in zip(views, views[1:])]
  if not all(said):
    return record.drop('motion without words', views=[view.name for view in views])
  base, *further = [(folder / 'images' / view.name).read_bytes() for view in views]
  return record.without('folder').having(
      given=[base], targets=further, instruction=[numbered(said)]).noting(
          views=[view.name for view in views])


def _captured(folder: epath.Path, above: frozenset[str] = frozenset()) -> Iterator[epath.Path]:
  """Folders with cameras at or below a folder; nothing is looked for within them, nor in a link
  that leads back to a folder above."""
  real = os.path.realpath(folder)
  if folder.joinpath(*_SPARSE).is_dir():
    yield folder
  elif real not in above:
    for below in folder.iterdir():
      if below.is_dir() and not is_hidden(below.name):
        yield from _captured(below, above | {real})


def _apart(cameras: Sequence[Camera], degrees: float) -> list[Camera]:
  """The first camera, and each that looks in another direction than the one kept before it."""
  kept = list(cameras[:1])
  for camera in cameras[1:]:
    if between(kept[-1], camera) >= degrees:
      kept.append(camera)
  return kept


def _categories(file: epath.Path) -> dict[str, str]:
  """Label to name, one on a line, with a comma, colon or space between; {} without the file."""
  found = (_CATEGORY.fullmatch(line) for line in (
      file.read_text().splitlines() if file.exists() else ()))
  return {match[1]: match[2].replace('_', ' ') for match in found if match}
