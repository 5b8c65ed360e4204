"""Vision: images as the patches that a language model sees, and where their tokens stand.

Square images follow InternVL: ImageNet's statistics, patches in reading order. Native ones follow
Qwen2-VL: sizes, order and normalisation equal its image processor, positions its
``get_rope_index`` (tests/data/test_vision.py).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.core.types import Vision
from jaxgen.data.buckets import area_size
from jaxgen.data.decode import Picture
from jaxgen.data.example import Size
from jaxgen.data.images import fit_image
from jaxgen.data.images import resize_and_crop
from jaxgen.data.positions import grid_positions
from jaxgen.data.positions import text_positions

# ImageNet statistics, with which InternVL's vision tower was trained.
SQUARE_MEAN = np.asarray([0.485, 0.456, 0.406], np.float32)
SQUARE_STD = np.asarray([0.229, 0.224, 0.225], np.float32)
# Mean and deviation of the pixels that CLIP was trained on, in [0, 1].
NATIVE_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
NATIVE_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
FRAMES = 2  # the native tower reads pairs of frames; those of an image are equal
MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 1280
MAX_ASPECT = 200


def make_vision(vision: Vision, *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS,
                max_side: int = 0, area: int = 0) -> 'SquareVision | NativeVision':
  """What prepares the images that the language model sees.

  Args:
    vision: sizes of its vision tower.
    min_pixels, max_pixels: bounds of the area of native images.
    max_side: bound of either side of native images in pixels (L113), 0 = none.
    area: in pixels, that native images are stretched to at first, 0 = not.

  Raises:
    UserError: a square that image tokens do not fill.
  """
  if vision.kind == 'square':
    return SquareVision(vision.patch, vision.merge, vision.size)
  assert vision.kind == 'native', vision.kind
  return NativeVision(vision.patch, vision.merge, min_pixels, max_pixels, max_side, area)


@dataclasses.dataclass(frozen=True)
class SquareVision:
  """Every image is brought to one square.

  Attributes:
    patch: pixels along one side of a patch.
    merge: patches along one side of an image token.
    side: of the square in pixels.
  """

  patch: int
  merge: int
  side: int

  def __post_init__(self):
    if self.side <= 0 or self.side % (self.patch * self.merge):
      raise user_error('config.data.vision_size', self.side,
                       f'use a multiple of {self.patch * self.merge}')

  @property
  def patch_dim(self) -> int:
    """Dp, values of a patch."""
    return 3 * self.patch**2

  def fit(self, size: Size) -> Size:
    """The size that an image of ``size`` is brought to."""
    del size
    return (self.side, self.side)

  def stretched(self, size: Size) -> None:
    """Images have no other size on the way to the fitted one."""
    del size

  def resize(self, image: np.ndarray | Picture, own: Size) -> np.ndarray:
    """uint8[H, W, 3] at the fitted size of an image of size ``own``, which may have been decoded at
    reduced scale: short edge resized, the middle cut out."""
    return resize_and_crop(image, self.fit(own))

  def tokens(self, size: Size) -> int:
    """Image tokens of an image of the fitted ``size``."""
    return _tokens(size, self.patch * self.merge)

  def patches(self, image: np.ndarray) -> np.ndarray:
    """Normalises and cuts an image of the fitted size.

    Args:
      image: uint8[H, W, 3].

    Returns:
      f32[p, Dp] in reading order, each patch flattened as (colour, row, column).
    """
    values = (image.astype(np.float32) / 255 - SQUARE_MEAN) / SQUARE_STD
    rows, columns = _grid(image.shape[:2], self.patch)
    split = values.reshape(rows, self.patch, columns, self.patch, 3)
    return split.transpose(0, 2, 4, 1, 3).reshape(rows * columns, self.patch_dim)

  def patch_positions(self, size: Size) -> np.ndarray:
    """(h, w) of the patches of an image of the fitted ``size``; i32[p, 2]."""
    return grid_positions(*_grid(size, self.patch))

  def prompt_positions(self, image_index: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """Positions of a sample's prompt tokens: 0, 1, 2, ... on all three axes.

    Args:
      image_index: i32[n], which image token of the sample stands where, -1 for text and queries.
      sizes: fitted sizes of the images, in the order in which their tokens are counted.

    Returns:
      i32[n, 3].
    """
    del sizes
    return text_positions(len(image_index))


@dataclasses.dataclass(frozen=True)
class NativeVision:
  """Every image keeps its shape, as far as the bounds let it.

  Attributes:
    patch: pixels along one side of a patch.
    merge: patches along one side of an image token.
    min_pixels, max_pixels: bounds of the area.
    max_side: bound of either side in pixels, 0 = none.
    area: in pixels, that an image is stretched to before all else, as the pipelines of
      Qwen-Image-Edit have it; 0 = not.
  """

  patch: int
  merge: int
  min_pixels: int = MIN_PIXELS
  max_pixels: int = MAX_PIXELS
  max_side: int = 0
  area: int = 0

  def __post_init__(self):
    if 0 < self.max_side < self.patch * self.merge:
      raise user_error('config.data.vision_side', self.max_side,
                       f'use {self.patch * self.merge} or more, or 0 for no bound')

  @property
  def patch_dim(self) -> int:
    """Dp, values of a patch."""
    return 3 * FRAMES * self.patch**2

  def fit(self, size: Size) -> Size:
    """The size that an image of ``size`` is resized to.

    Raises:
      UserError: an image 200 times longer than wide, or the reverse.
    """
    return fitted_size(*(self.stretched(size) or size), factor=self.patch * self.merge,
                       min_pixels=self.min_pixels, max_pixels=self.max_pixels,
                       max_side=self.max_side)

  def stretched(self, size: Size) -> Size | None:
    """The size that an image of ``size`` has on the way to the fitted one; None = it has none."""
    return area_size(size, self.area) if self.area else None

  def resize(self, image: np.ndarray | Picture, own: Size) -> np.ndarray:
    """uint8[H, W, 3] at the fitted size of an image of size ``own``, which may have been decoded at
    reduced scale: the whole image."""
    if self.area:
      image = fit_image(image, self.stretched(own), 'stretch')
    return Picture.of(image).resize(self.fit(own))

  def tokens(self, size: Size) -> int:
    """Image tokens of an image of the fitted ``size``."""
    return _tokens(size, self.patch * self.merge)

  def patches(self, image: np.ndarray) -> np.ndarray:
    """Normalises and cuts an image of the fitted size.

    Args:
      image: uint8[H, W, 3].

    Returns:
      f32[p, Dp] in the order of ``patch_positions``, each patch flattened as (colour, frame, row,
      column).
    """
    pixels = (image.astype(np.float64) / 255).astype(np.float32)
    pixels = (pixels - NATIVE_MEAN) / NATIVE_STD
    rows, columns = _grid(image.shape[:2], self.patch * self.merge)
    # [token row, row in token, pixel row, token column, column in token, pixel column, colour]
    split = pixels.reshape(rows, self.merge, self.patch, columns, self.merge, self.patch, 3)
    patches = split.transpose(0, 3, 1, 4, 6, 2, 5)
    patches = patches.reshape(rows * columns * self.merge**2, 3, 1, self.patch, self.patch)
    return np.repeat(patches, FRAMES, axis=2).reshape(len(patches), self.patch_dim)

  def patch_positions(self, size: Size) -> np.ndarray:
    """(h, w) of the patches of an image of the fitted ``size``; i32[p, 2]."""
    return native_positions(*_grid(size, self.patch), merge=self.merge)

  def prompt_positions(self, image_index: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """(t, h, w) of a sample's prompt tokens for multimodal RoPE; queries count as text.

    Args:
      image_index: i32[n], which image token of the sample stands where, -1 for text and queries.
      sizes: fitted sizes of the images, in the order in which their tokens are counted.

    Returns:
      i32[n, 3].
    """
    counts = [self.tokens(size) for size in sizes]
    first = np.cumsum([0, *counts])[:-1]  # of each image
    # A text may mention images in another order than that in which they are counted.
    order = sorted((place, image) for image, token in enumerate(first)
                   for place in np.flatnonzero(image_index == token))
    grids = [_grid(sizes[image], self.patch) for _, image in order]
    return rotary_positions(image_index >= 0, grids, merge=self.merge)


def fitted_size(height: int, width: int, *, factor: int = 28, min_pixels: int = MIN_PIXELS,
                max_pixels: int = MAX_PIXELS, max_side: int = 0) -> Size:
  """The size that an image is resized to: multiples of ``factor``, much the same shape.

  Args:
    height, width: of the image in pixels.
    factor: both sides become multiples of it.
    min_pixels, max_pixels: bounds of the area.
    max_side: bound of either side, which goes before ``min_pixels``; 0 = none.

  Raises:
    UserError: an image 200 times longer than wide, or the reverse.
  """
  if max(height, width) > MAX_ASPECT * min(height, width):
    raise record_error('image', (height, width), f'one side is over {MAX_ASPECT} times the other; '
                       'crop it')
  longest = max_side // factor * factor if max_side else math.inf
  shrink = max(1.0, max(height, width) / max_side) if max_side else 1.0
  height, width = height / shrink, width / shrink
  sides = tuple(round(side / factor) * factor for side in (height, width))
  if sides[0] * sides[1] > max_pixels:
    shrink = math.sqrt(height * width / max_pixels)
    sides = tuple(max(factor, math.floor(side / shrink / factor) * factor)
                  for side in (height, width))
  elif sides[0] * sides[1] < min_pixels:
    grow = math.sqrt(min_pixels / (height * width))
    sides = tuple(math.ceil(side * grow / factor) * factor for side in (height, width))
  return tuple(min(side, longest) for side in sides)


def native_positions(rows: int, columns: int, *, merge: int = 2) -> np.ndarray:
  """(h, w) of the patches of an image: token by token, within a token in reading order.

  Args:
    rows, columns: grid of the patches, multiples of ``merge``.
    merge: patches along one side of an image token.

  Returns:
    i32[rows * columns, 2].
  """
  grid = grid_positions(rows, columns).reshape(rows // merge, merge, columns // merge, merge, 2)
  return grid.swapaxes(1, 2).reshape(-1, 2)


def rotary_positions(is_image: np.ndarray, grids: Sequence[tuple[int, int]], *,
                     merge: int = 2) -> np.ndarray:
  """(t, h, w) of the tokens of one sample for multimodal RoPE.

  Text counts up on all axes at once. An image keeps t while h and w run over its tokens, all of
  them from the place that it stands at; text goes on behind its longer side.

  Args:
    is_image: bool[n], where image tokens stand.
    grids: (rows, columns) in patches of every image, in the order in which they stand there.
    merge: patches along one side of an image token.

  Returns:
    i32[n, 3].

  Raises:
    UserError: image tokens that the grids do not account for.
  """
  tokens = sum(rows * columns // merge**2 for rows, columns in grids)
  if tokens != np.count_nonzero(is_image):
    raise user_error('image tokens', int(np.count_nonzero(is_image)),
                     f'the images of the sample have {tokens}')
  positions = np.empty((len(is_image), 3), np.int32)
  place, index, remaining = 0, 0, iter(grids)
  while index < len(is_image):
    if is_image[index]:
      rows, columns = (side // merge for side in next(remaining))
      count = rows * columns
      positions[index:index + count, 0] = place
      positions[index:index + count, 1:] = place + grid_positions(rows, columns)
      place += max(rows, columns)
    else:
      count = 1
      positions[index] = place
      place += 1
    index += count
  return positions


def _grid(size: Sequence[int], unit: int) -> tuple[int, int]:
  """(rows, columns) of squares of ``unit`` pixels."""
  height, width = size
  return height // unit, width // unit


def _tokens(size: Size, factor: int) -> int:
  rows, columns = _grid(size, factor)
  return rows * columns
