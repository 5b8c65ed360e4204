"""Aspect buckets, and the resize and crop that bring an image to a given size."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (height, width) in pixels

GRID = 16  # every side is a multiple: autoencoder factor 8 times patch 2
BASES = (512, 768, 1024)


def constant_sum_buckets(base: int, reach: int, step: int = 32) -> tuple[Size, ...]:
  """The sizes ``(base + k step, base - k step)`` for k = -reach..reach, tall ones last."""
  return tuple((base + k * step, base - k * step) for k in range(-reach, reach + 1))


# L020 counts 37 canonical resolutions but does not list them, and no plain rule gives 37 (A04).
# This list is ours: pairs of constant sum that reach 5, 6 and 6 steps of 32 pixels around the
# three bases (11 + 13 + 13 = 37). It is not claimed to be the authors' list.
CANONICAL_BUCKETS: tuple[Size, ...] = (
    # base 512
    (352, 672), (384, 640), (416, 608), (448, 576), (480, 544), (512, 512),
    (544, 480), (576, 448), (608, 416), (640, 384), (672, 352),
    # base 768
    (576, 960), (608, 928), (640, 896), (672, 864), (704, 832), (736, 800), (768, 768),
    (800, 736), (832, 704), (864, 672), (896, 640), (928, 608), (960, 576),
    # base 1024
    (832, 1216), (864, 1184), (896, 1152), (928, 1120), (960, 1088), (992, 1056), (1024, 1024),
    (1056, 992), (1088, 960), (1120, 928), (1152, 896), (1184, 864), (1216, 832),
)


def aspect_error(size: Size, bucket: Size) -> float:
  """|log of the ratio of aspects|: 0 where the bucket has the very shape of the image."""
  return abs(math.log(size[0] / size[1]) - math.log(bucket[0] / bucket[1]))


def best_bucket(size: Size, buckets: Sequence[Size] = CANONICAL_BUCKETS) -> Size:
  """The bucket of least aspect error; among equals the one nearest in area, then the first."""
  area = size[0] * size[1]

  def key(bucket: Size) -> tuple[float, float]:
    # Rounded so that equal shapes of other sizes count as equal.
    return (round(aspect_error(size, bucket), 9),
            abs(math.log(area / (bucket[0] * bucket[1]))))

  return min(buckets, key=key)


def resize_and_crop(image: np.ndarray, size: Size) -> np.ndarray:
  """Scales the image until it just covers ``size``, then cuts the middle out.

  For a square this is: short edge resized, central crop (L097). Only the middle is computed.

  Args:
    image: uint8[H, W, 3].
    size: (height, width) wanted.

  Returns:
    uint8[height, width, 3]; the image itself where it has the size already.
  """
  height, width = image.shape[:2]
  if (height, width) == tuple(size):
    return image
  scale = min(height / size[0], width / size[1])
  crop_height, crop_width = size[0] * scale, size[1] * scale
  top, left = (height - crop_height) / 2, (width - crop_width) / 2
  box = (left, top, left + crop_width, top + crop_height)
  box = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
  resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
  return np.asarray(resized)
