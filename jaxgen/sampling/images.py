"""Images side by side."""

from collections.abc import Sequence

import numpy as np

GAP = 2  # pixels between images


def image_grid(images: Sequence[np.ndarray] | np.ndarray, columns: int) -> np.ndarray:
  """Tiles images row by row on white; each stands at the top left of a tile of the largest size.

  Args:
    images: uint8[H, W, 3] each, of any sizes.
    columns: images in a row.

  Returns:
    One uint8[H', W', 3].
  """
  height = max(image.shape[0] for image in images) + GAP
  width = max(image.shape[1] for image in images) + GAP
  rows = -(-len(images) // columns)
  canvas = np.full((rows * height - GAP, columns * width - GAP, 3), 255, np.uint8)
  for index, image in enumerate(images):
    top, left = index // columns * height, index % columns * width
    canvas[top:top + image.shape[0], left:left + image.shape[1]] = image
  return canvas


def columns_of(inputs: Sequence[np.ndarray], drawn: Sequence[np.ndarray],
               expected: Sequence[np.ndarray]) -> np.ndarray:
  """What was given and then what was drawn, with what was expected below it; uint8[H, W, 3].

  Where there are fewer of one kind, white stands in its place.
  """
  columns = max(len(drawn), len(expected))
  above, below = ([*images, *[np.full_like(expected[0], 255)] * (columns - len(images))]
                  for images in (drawn, expected))
  blank = [np.full_like(image, 255) for image in inputs]
  return image_grid([*inputs, *above, *blank, *below], columns=len(inputs) + columns)
