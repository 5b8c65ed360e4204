"""Views and turns of photographs: samples of many images whose right answers are known exactly.

A view is a square window of the photograph that has moved; a turn changes all pixels of one. Each
step is told from the image before it, as in iMontage's multi-view and multi-turn sets (L017, L018).
"""

import functools
import random
from collections.abc import Callable

import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.data.decode import Picture
from jaxgen.data.decode import read_picture
from jaxgen.data.images import resize_and_crop
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import Source
from jaxgen.data.sources.subjects import name_of
from jaxgen.data.sources.subjects import of_split
from jaxgen.data.wordings import numbered
from jaxgen.data.wordings import worded

VISITS = 256  # samples of each photograph
SCALE = 4  # short side of a photograph in memory, in sides of a window's image
KEPT = 256  # photographs in memory
STEPS = 3  # most further images of a sample
_TASKS = ('views', 'turns')

Window = tuple[float, float, float]  # top, left and side, in pixels of the photograph


class PhotoSource:
  """``VISITS`` samples of every photograph of another source.

  Subjects are held out as a whole (data/sources/subjects.py).

  Args:
    photos: samples of one target image each; their texts are not used.
    place: ``fields`` may have ``task``: ``views`` or ``turns``; both take turns without it.
    size: side of the images in pixels.
    seed: another seed gives other samples.

  Raises:
    UserError: no size, another task, or photographs of one subject alone.
  """

  def __init__(self, photos: Source, place: Place, size: int, seed: int):
    unknown = sorted(set(place.fields) - {'task'})
    task = place.fields.get('task', '')
    if unknown or (task and task not in _TASKS):
      raise user_error(place.field, dict(place.fields), f'photos have the field task, one of '
                       f'{", ".join(_TASKS)}')
    if not size:
      raise user_error(f'{place.field}: size', size, 'windows of photographs have none of their '
                       'own; give the side in pixels')
    self._tasks, self._size, self._seed = (task,) if task else _TASKS, size, seed
    self._split = 'train' if place.split == 'train' else 'test'
    self._photos = of_split(photos, place)
    self._read = functools.lru_cache(KEPT)(self._decoded)

  def __len__(self) -> int:
    return len(self._photos) * VISITS

  def __getitem__(self, index: int) -> Sample:
    visit, place = divmod(index, len(self._photos))
    task = self._tasks[visit % len(self._tasks)]
    name = f'photos/{task}/{self._split}/{self._seed}/{index}'
    rng = random.Random(name)
    photo = self._read(place)
    window = _window(rng, photo)
    count = rng.randint(1, STEPS)
    images = [_seen(photo, window, self._size)]
    if task == 'views':
      said, windows = _moves(rng, photo, window, count, self._size)
      images += [_seen(photo, moved, self._size) for moved in windows]
    else:
      said = rng.sample(list(TURNS), count)
      for turn in said:
        images.append(TURNS[turn](images[-1]))
    text = worded('multiview' if task == 'views' else 'image_editing', numbered(said),
                  outputs=count)
    return Sample(name, (Part('source', image=images[0]), Part('user', text=text),
                         *(Part('target', image=image, loss=True) for image in images[1:])),
                  origin=name_of(self._photos[place]))

  def _decoded(self, place: int) -> np.ndarray:
    """uint8[H, W, 3], the short side ``SCALE`` windows long."""
    short = SCALE * self._size
    photo = read_picture(self._photos[place].images[0].image, (short, short))
    height, width = photo.extent
    scale = short / min(height, width)
    return resize_and_crop(photo, (max(round(height * scale), short),
                                   max(round(width * scale), short)))


def _tinted(color: tuple[int, int, int]) -> Callable[[np.ndarray], np.ndarray]:
  return lambda image: np.round(image * 0.6 + np.array(color) * 0.4).astype(np.uint8)


# Instruction -> what it makes of an image uint8[H, W, 3].
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'mirror it': lambda image: np.ascontiguousarray(image[:, ::-1]),
    'turn it upside down': lambda image: np.ascontiguousarray(image[::-1]),
    'tint it red': _tinted((255, 0, 0)),
    'tint it green': _tinted((0, 255, 0)),
    'tint it blue': _tinted((0, 0, 255)),
    'make it darker': lambda image: np.round(image * 0.5).astype(np.uint8),
    'make it black and white': lambda image: np.repeat(
        np.round(image @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=2).astype(np.uint8),
}
# Instruction -> how far the window moves down and right, in thirds of its side, and what its side
# is multiplied by.
MOVES: dict[str, tuple[int, int, float]] = {
    'pan left': (0, -1, 1.0), 'pan right': (0, 1, 1.0), 'pan up': (-1, 0, 1.0),
    'pan down': (1, 0, 1.0), 'zoom in': (0, 0, 2 / 3), 'zoom out': (0, 0, 3 / 2)}


def _window(rng: random.Random, photo: np.ndarray) -> Window:
  height, width = photo.shape[:2]
  side = rng.uniform(0.4, 0.75) * min(height, width)
  return rng.uniform(0, height - side), rng.uniform(0, width - side), side


def _moves(rng: random.Random, photo: np.ndarray, window: Window, count: int, least: int
           ) -> tuple[list[str], list[Window]]:
  """Random moves that stay within the photograph and enlarge nothing, and where they lead to."""
  said, windows = [], []
  for _ in range(count):
    possible = {}
    for name, (down, right, factor) in MOVES.items():
      top, left, side = window
      moved = side * factor
      top += down * side / 3 + (side - moved) / 2
      left += right * side / 3 + (side - moved) / 2
      if (moved >= least and min(top, left) >= 0 and top + moved <= photo.shape[0]
          and left + moved <= photo.shape[1]):
        possible[name] = (top, left, moved)
    name = rng.choice(list(possible))
    window = possible[name]
    said.append(name)
    windows.append(window)
  return said, windows


def _seen(photo: np.ndarray, window: Window, size: int) -> np.ndarray:
  top, left, side = window
  box = (left, top, min(left + side, photo.shape[1]), min(top + side, photo.shape[0]))
  return Picture.of(photo).resize((size, size), box)
