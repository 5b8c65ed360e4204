"""Images at their own size and shape as vision patches, and where their tokens stand in a text.

The rules of Qwen2-VL: sizes, order and normalisation equal its image processor, positions equal
its ``get_rope_index`` (tests/data/test_native_images.py).
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxgen.core.errors import user_error
from jaxgen.data.positions import grid_positions

PATCH, FRAMES, MERGE = 14, 2, 2
MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 1280
MAX_ASPECT = 200
# Mean and deviation of the pixels that CLIP was trained on, in [0, 1].
PIXEL_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
PIXEL_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def fitted_size(height: int, width: int, *, factor: int = PATCH * MERGE,
                min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
  """The size that an image is resized to: multiples of ``factor``, much the same shape.

  Args:
    height, width: of the image in pixels.
    factor: both sides become multiples of it.
    min_pixels, max_pixels: bounds of the area.

  Returns:
    (height, width).

  Raises:
    UserError: an image 200 times longer than wide, or the reverse.
  """
  if max(height, width) > MAX_ASPECT * min(height, width):
    raise user_error('image', (height, width), f'one side is over {MAX_ASPECT} times the other; '
                     'crop it')
  sides = tuple(round(side / factor) * factor for side in (height, width))
  if sides[0] * sides[1] > max_pixels:
    shrink = math.sqrt(height * width / max_pixels)
    return tuple(max(factor, math.floor(side / shrink / factor) * factor)
                 for side in (height, width))
  if sides[0] * sides[1] < min_pixels:
    grow = math.sqrt(min_pixels / (height * width))
    return tuple(math.ceil(side * grow / factor) * factor for side in (height, width))
  return sides


def native_patches(image: np.ndarray, *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
                   ) -> tuple[np.ndarray, tuple[int, int]]:
  """Resizes, normalises and cuts one image.

  Args:
    image: uint8[H, W, 3].
    min_pixels, max_pixels: bounds of the resized area.

  Returns:
    ``(f32[P, Dp], (rows, columns))``: patches of 14 x 14 pixels in the order of
    ``native_positions``, each flattened as (colour, frame, row, column) with its two frames equal,
    and the grid that they make.
  """
  height, width = fitted_size(*image.shape[:2], min_pixels=min_pixels, max_pixels=max_pixels)
  resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  pixels = (np.asarray(resized).astype(np.float64) / 255).astype(np.float32)
  pixels = (pixels - PIXEL_MEAN) / PIXEL_STD
  rows, columns = height // PATCH, width // PATCH
  # (token row, row in token, pixel row, token column, column in token, pixel column, colour)
  split = pixels.reshape(rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH, 3)
  patches = split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, 1, PATCH, PATCH)
  return np.repeat(patches, FRAMES, axis=2).reshape(rows * columns, -1), (rows, columns)


def native_positions(rows: int, columns: int) -> np.ndarray:
  """(h, w) of the patches of an image: token by token, within a token in reading order.

  Args:
    rows, columns: grid of the patches, even.

  Returns:
    i32[rows * columns, 2].
  """
  grid = grid_positions(rows, columns).reshape(rows // MERGE, MERGE, columns // MERGE, MERGE, 2)
  return grid.swapaxes(1, 2).reshape(-1, 2)


def rotary_positions(is_image: np.ndarray, grids: Sequence[tuple[int, int]]) -> np.ndarray:
  """(t, h, w) of the tokens of one sample for multimodal RoPE.

  Text counts up on all axes at once. An image keeps t while h and w run over its tokens, all of
  them from the place that it stands at; text goes on behind its longer side.

  Args:
    is_image: bool[n], where image tokens stand.
    grids: (rows, columns) in patches of every image, in order.

  Returns:
    i32[n, 3].

  Raises:
    UserError: image tokens that the grids do not account for.
  """
  tokens = sum(rows * columns // MERGE**2 for rows, columns in grids)
  if tokens != np.count_nonzero(is_image):
    raise user_error('image tokens', int(np.count_nonzero(is_image)),
                     f'the images of the sample have {tokens}')
  positions = np.empty((len(is_image), 3), np.int32)
  place, index, remaining = 0, 0, iter(grids)
  while index < len(is_image):
    if is_image[index]:
      rows, columns = (side // MERGE for side in next(remaining))
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
