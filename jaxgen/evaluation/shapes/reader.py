"""Reads the scene of an image back from its pixels, by comparing each cell with every object.

A cell is compared with templates: each shape in each size, pattern and style, up to a sixteenth of
the cell off its centre. Of each the least-squares colours are taken and brought to the palette, and
the template that then leaves the least of the cell unexplained is what the cell shows. A cell that
no template explains holds ``UNCLEAR``.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxgen.data.shapes.drawing import COLORS
from jaxgen.data.shapes.drawing import GROUNDS
from jaxgen.data.shapes.drawing import masks
from jaxgen.data.shapes.drawing import PATTERNS
from jaxgen.data.shapes.drawing import SHAPES
from jaxgen.data.shapes.drawing import SIZES
from jaxgen.data.shapes.scenes import Grid
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import layout
from jaxgen.data.shapes.scenes import Scene

UNCLEAR = Item('unclear', ())
RESOLUTION = 16  # larger cells are brought to this side
EMPTY = 14.0  # root mean square difference to the ground, of 255, up to which a cell is empty
EXPLAINED = 0.35  # share of a cell's difference to the ground that may stay unexplained
CENTRED = 0.03  # up to this share the object is taken to stand in the middle
RIVALS = 2.0  # times as much as the best style leaves unexplained: others are out
_NAMES = tuple(COLORS)
_PALETTE = np.array(list(COLORS.values()), np.float32)
_GROUNDS = np.array(list(GROUNDS.values()), np.float32)


def read(image: np.ndarray, grid: Grid, styles: Sequence[str] = ('filled',)) -> Scene:
  """The scene that an image shows.

  Args:
    image: uint8[H, W, 3].
    grid: rows and columns that it is known to have.
    styles: those that it may be drawn in.

  Returns:
    The scene; ``UNCLEAR`` stands in cells that show no object.
  """
  looks = [_Look(image, grid, style) for style in styles]
  for offsets in (False, True):  # most objects are centred: all offsets only for those that are not
    for look in looks:
      look.match(offsets)
    best = min(looks, key=lambda look: look.unexplained)
    if not len(best.open):
      break
    looks = [look for look in looks if look.unexplained <= RIVALS * best.unexplained]
  return best.scene


class _Look:
  """An image taken as drawn in one style.

  Args:
    image: uint8[H, W, 3].
    grid: rows and columns.
    style: of all items.

  Attributes:
    open: cells whose object is still to be looked for off the centre, or at all.
  """

  def __init__(self, image: np.ndarray, grid: Grid, style: str):
    self._grid, self._style = grid, style
    cells, self._side = _cells(255 - image if style == 'inverted' else image, grid)
    self._ground, self._far = _ground(cells)
    self._pixels = (cells - _GROUNDS[self._ground]).reshape(len(cells), -1, 3)
    self._energy = np.square(self._pixels).sum((1, 2))  # f32[cells], squared difference to ground
    self._left = self._energy.copy()  # what of it the items do not explain
    self._items: list[Item | None] = [None] * len(cells)
    self.open = np.flatnonzero(self._energy >= EMPTY**2 * self._pixels[0].size)

  def match(self, offsets: bool) -> None:
    """Looks for the items of the open cells, in the middle of the cells or around it."""
    if not len(self.open):
      return
    style = 'filled' if self._style == 'inverted' else self._style
    energy = self._energy[self.open]
    found, least = _nearest(self._pixels[self.open], energy, self._ground,
                            _templates(style, self._side, offsets))
    for cell, item, rest in zip(self.open, found, least, strict=True):
      explained = rest <= EXPLAINED * self._energy[cell]
      self._items[cell], self._left[cell] = (item, rest) if explained else (
          UNCLEAR, self._energy[cell])
    self.open = self.open[least > CENTRED * energy]

  @property
  def unexplained(self) -> float:
    """Squared difference of the image to what has been found."""
    return float(self._left.sum() + self._far)

  @property
  def scene(self) -> Scene:
    return Scene(self._grid, tuple(self._items), tuple(GROUNDS)[self._ground], self._style)


def _cells(image: np.ndarray, grid: Grid) -> tuple[np.ndarray, int]:
  """The cells, f32[cells, P, P, 3] with P up to ``RESOLUTION``, and their side in the image."""
  side, top, left = layout(image.shape[:2], grid)
  inner = image[top:top + side * grid[0], left:left + side * grid[1]]
  small = min(side, RESOLUTION)
  if small < side:
    inner = np.asarray(Image.fromarray(inner).resize((small * grid[1], small * grid[0]),
                                                     Image.Resampling.BOX))
  cells = inner.reshape(grid[0], small, grid[1], small, 3).swapaxes(1, 2)
  return cells.reshape(-1, small, small, 3).astype(np.float32), side


def _ground(cells: np.ndarray) -> tuple[int, float]:
  """Number of the ground, by the corners of all cells, and how far off they are."""
  corners = np.concatenate([cells[:, row, column] for row in (0, -1) for column in (0, -1)])
  away = np.square(np.median(corners, axis=0) - _GROUNDS).sum(-1)
  return int(away.argmin()), float(away.min() * cells[..., 0].size)


def _nearest(pixels: np.ndarray, energy: np.ndarray, ground: int, templates: 'Templates'
             ) -> tuple[list[Item], np.ndarray]:
  """The item of the best template for each cell, and the squared difference it leaves."""
  colors = _PALETTE - _GROUNDS[ground]
  gram, two = templates.gram, templates.two
  # Inner products of each mask with the cell: [cells, templates, 2, 3].
  # Products small enough to stay in one thread, which is quicker.
  seen = np.matmul(pixels.swapaxes(1, 2)[:, None], templates.covers.transpose(1, 2, 0))
  seen = seen.transpose(0, 3, 1, 2)
  fitted = np.einsum('tmn,ctnk->ctmk', templates.inverse, seen)
  away = (np.square(colors).sum(-1) - 2 * fitted @ colors.T)  # and |fitted|^2, alike for all
  chosen = away.argmin(-1)  # [cells, templates, 2]
  filled = colors[chosen]
  filled[:, ~two, 1] = 0
  left = energy[:, None] - 2 * (filled * seen).sum((2, 3))
  left += (np.einsum('tmn,ctnk->ctmk', gram, filled) * filled).sum((2, 3))
  left[two[None] & (chosen[..., 0] == chosen[..., 1])] = np.inf  # one colour is no pattern
  best = left.argmin(1)
  found = []
  for cell, template in enumerate(best):
    shape, size, pattern = templates.names[template]
    used = chosen[cell, template][:2 if two[template] else 1]
    found.append(Item(shape, tuple(_NAMES[color] for color in used), pattern, size))
  return found, left[np.arange(len(best)), best]


class Templates(NamedTuple):
  """What cells are compared with.

  Attributes:
    names: shape, size and pattern of each.
    covers: f32[T, 2, P], the masks of both colours.
    gram, inverse: f32[T, 2, 2], inner products of the masks and their inverse.
    two: bool[T], whether it has two colours.
  """

  names: list[tuple[str, str, str]]
  covers: np.ndarray
  gram: np.ndarray
  inverse: np.ndarray
  two: np.ndarray


@functools.lru_cache(maxsize=64)
def _templates(style: str, side: int, offsets: bool) -> Templates:
  """All objects of a style in a cell of ``side`` pixels, centred or at every small offset."""
  names, found = [], []
  step = max(1, round(side / 16)) if offsets else 0
  places = list(itertools.product(sorted({-step, 0, step}), repeat=2))
  for shape, (size, pattern) in itertools.product(SHAPES, _variants(style)):
    cover = masks(shape, size, pattern, style, side)
    for place in places:
      names.append((shape, size, pattern))
      found.append(np.roll(cover, place, axis=(1, 2)))
  covers = np.stack(found)
  if side > RESOLUTION:
    shrink = _shrink(side)
    covers = np.einsum('Pp,Qq,tmpq->tmPQ', shrink, shrink, covers, optimize=True)
  covers = covers.reshape(*covers.shape[:2], -1)
  gram = np.einsum('tmp,tnp->tmn', covers, covers)
  two = np.array([pattern != 'plain' for _, _, pattern in names])
  inverse = np.zeros_like(gram)
  inverse[two] = np.linalg.inv(gram[two])
  inverse[~two, 0, 0] = 1 / gram[~two, 0, 0]
  return Templates(names, covers, gram, inverse, two)


def _variants(style: str) -> list[tuple[str, str]]:
  """Size and pattern of what a style can show."""
  plain = [(size, 'plain') for size in SIZES]
  return plain + [('large', pattern) for pattern in PATTERNS[1:] if style == 'filled']


@functools.lru_cache(maxsize=64)
def _shrink(side: int) -> np.ndarray:
  """f32[RESOLUTION, side] that averages over equal stretches."""
  edges = np.linspace(0, side, RESOLUTION + 1)
  left, right = np.arange(side), np.arange(side) + 1
  overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
  return (np.clip(overlap, 0, None) * RESOLUTION / side).astype(np.float32)
