"""Scenes: items in the cells of a grid, on a ground, in a style.

What a scene shows is data (``Scene``), so that an expected picture and one that was read back from
pixels can be compared. One in six items is held out of training (``held_out``).
"""

import dataclasses
import functools
import itertools
import random
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from jaxgen.data.shapes.drawing import COLORS
from jaxgen.data.shapes.drawing import GROUNDS
from jaxgen.data.shapes.drawing import masks
from jaxgen.data.shapes.drawing import PATTERNS
from jaxgen.data.shapes.drawing import SHAPES

HELD_OUT_ONE_IN, HELD_OUT_REST = 6, 2  # this remainder takes a plain item of every shape
Grid = tuple[int, int]  # rows, columns


@dataclasses.dataclass(frozen=True)
class Item:
  """An object.

  Attributes:
    shape: one of ``SHAPES``.
    colors: one, or two of a pattern.
    pattern, size: keys of ``PATTERNS`` and ``SIZES``. Small items are plain.
  """

  shape: str
  colors: tuple[str, ...]
  pattern: str = 'plain'
  size: str = 'large'

  @property
  def key(self) -> str:
    """What tells it from others, without its size."""
    return '/'.join((self.shape, *self.colors, self.pattern))


@dataclasses.dataclass(frozen=True)
class Scene:
  """A picture: ``items`` holds one item or None for each cell, row by row."""

  grid: Grid
  items: tuple[Item | None, ...]
  ground: str = 'grey'
  style: str = 'filled'

  def placed(self, changes: Mapping[int, Item | None]) -> 'Scene':
    """A copy with other items in some cells."""
    items = tuple(changes.get(cell, item) for cell, item in enumerate(self.items))
    return dataclasses.replace(self, items=items)

  @property
  def filled(self) -> list[int]:
    """Cells with an item."""
    return [cell for cell, item in enumerate(self.items) if item]

  @property
  def free(self) -> list[int]:
    """Cells without one."""
    return [cell for cell, item in enumerate(self.items) if not item]


def only(items: Mapping[int, Item], grid: Grid, ground: str) -> Scene:
  """A scene of nothing but these items, by their cells."""
  return Scene(grid, (None,) * (grid[0] * grid[1]), ground).placed(items)


def held_out(key: str) -> bool:
  """True for the keys (of items, relations, edits, ...) that training never shows."""
  return zlib.crc32(f'shapes/{key}'.encode()) % HELD_OUT_ONE_IN == HELD_OUT_REST


@functools.cache
def items(kind: str, split: str) -> tuple[Item, ...]:
  """All large items of a kind, ``plain`` or ``patterned``.

  Args:
    kind: one colour, or two in a pattern.
    split: ``train`` and ``test`` divide them; ``all`` are both.
  """
  if kind == 'plain':
    found = [Item(shape, (color,)) for shape in SHAPES for color in COLORS]
  else:
    found = [Item(shape, colors, pattern) for shape in SHAPES for pattern in PATTERNS[1:]
             for colors in itertools.permutations(COLORS, 2)]
  return tuple(item for item in found
               if split == 'all' or held_out(item.key) == (split == 'test'))


@functools.cache
def _patterned(split: str, taken: frozenset[str]) -> tuple[Item, ...]:
  """The patterned items of the shapes that are not taken."""
  return tuple(item for item in items('patterned', split) if item.shape not in taken)


@dataclasses.dataclass(frozen=True)
class Palette:
  """The random choices of one problem.

  Attributes:
    rng: of all of them.
    split: training shows no held-out item; a test may show any.
    grid: rows and columns of its scenes.
  """

  rng: random.Random
  split: str
  grid: Grid

  @property
  def cells(self) -> int:
    """Number of cells of a scene."""
    return self.grid[0] * self.grid[1]

  def item(self, kind: str = 'plain', but: Sequence[Item | None] = ()) -> Item:
    """An item that differs in shape or colours from those of ``but``."""
    split = 'train' if self.split == 'train' else 'all'
    keys = {item.key for item in but if item}
    while True:
      item = self.rng.choice(items(kind, split))
      if item.key not in keys:
        return item

  def characters(self, count: int) -> list[Item]:
    """Patterned items of different shapes; those of tests were never seen in training."""
    found: list[Item] = []
    for _ in range(count):
      taken = frozenset(item.shape for item in found)
      found.append(self.rng.choice(_patterned(self.split, taken)))
    return found

  def ground(self, but: str = '') -> str:
    """A colour of the ground."""
    return self.rng.choice([ground for ground in GROUNDS if ground != but])

  def cell(self, among: Sequence[int]) -> int:
    return self.rng.choice(among)

  def scene(self, count: int, *, patterned: float = 0.25, small: float = 0.2) -> Scene:
    """A scene of ``count`` items, no two of them alike in shape and colours.

    Args:
      count: up to the number of cells.
      patterned, small: shares of patterned items, and of small ones among the plain.
    """
    found: list[Item | None] = [None] * self.cells
    for cell in self.rng.sample(range(self.cells), count):
      kind = 'patterned' if self.rng.random() < patterned else 'plain'
      item = self.item(kind, found)
      if kind == 'plain' and self.rng.random() < small:
        item = dataclasses.replace(item, size='small')
      found[cell] = item
    return Scene(self.grid, tuple(found), self.ground())

  def alone(self, item: Item) -> Scene:
    """A picture of one item: how a reference shows it."""
    ground = self.ground()
    return only({self.rng.randrange(self.cells): item}, self.grid, ground)


def layout(size: tuple[int, int], grid: Grid) -> tuple[int, int, int]:
  """Side of a cell, and top and left of the grid, in pixels: cells are square, the rest is margin.

  Args:
    size: (height, width) of the image.
    grid: rows and columns.
  """
  side = min(size[0] // grid[0], size[1] // grid[1])
  return side, (size[0] - side * grid[0]) // 2, (size[1] - side * grid[1]) // 2


def windows(size: tuple[int, int], grid: Grid) -> Iterator[tuple[slice, slice]]:
  """Rows and columns of the pixels of each cell, row by row."""
  side, top, left = layout(size, grid)
  for row, column in itertools.product(range(grid[0]), range(grid[1])):
    yield (slice(top + row * side, top + (row + 1) * side),
           slice(left + column * side, left + (column + 1) * side))


def draw_scene(scene: Scene, size: tuple[int, int]) -> np.ndarray:
  """The picture of a scene; uint8[H, W, 3]."""
  image = np.empty((*size, 3), np.uint8)
  image[:] = GROUNDS[scene.ground]
  side, _, _ = layout(size, scene.grid)
  style = 'filled' if scene.style == 'inverted' else scene.style
  for item, (rows, columns) in zip(scene.items, windows(size, scene.grid), strict=True):
    if item:
      image[rows, columns] = _drawn(item, scene.ground, style, side)
  return 255 - image if scene.style == 'inverted' else image


@functools.lru_cache(maxsize=2048)
def _drawn(item: Item, ground: str, style: str, side: int) -> np.ndarray:
  """One cell, uint8[side, side, 3]."""
  cell = np.broadcast_to(np.asarray(GROUNDS[ground], np.float32), (side, side, 3)).copy()
  base = cell[0, 0].copy()
  covers = masks(item.shape, item.size, item.pattern, style, side)
  for cover, color in zip(covers, item.colors):
    cell += cover[..., None] * (np.asarray(COLORS[color], np.float32) - base)
  return np.round(cell).astype(np.uint8)
