"""Aspect buckets: the sizes that images may be brought to, and the best of them for an image."""

import math
import re
from collections.abc import Iterable
from collections.abc import Sequence

from jaxgen.core.errors import user_error

Size = tuple[int, int]  # (height, width) in pixels

GRID = 16  # every side is a multiple: autoencoder factor 8 times patch 2
AREA_STEP = 32  # calculate_dimensions of diffusers' pipelines of Qwen-Image-Edit
MAX_ASPECT = 4

# Query-Kontext's aspect ratios (L066); each stands for both orientations.
RATIOS = ((1, 1), (1, 2), (2, 3), (3, 4), (3, 5), (4, 5), (9, 16))


def constant_sum_buckets(base: int, reach: int, step: int = 32) -> tuple[Size, ...]:
  """The sizes ``(base + k step, base - k step)`` for k = -reach..reach, tall ones last."""
  return tuple((base + k * step, base - k * step) for k in range(-reach, reach + 1))


# L020 counts 37 canonical resolutions but does not list them, and no plain rule gives 37 (A04).
# These are ours: pairs of constant sum that reach 5, 6 and 6 steps of 32 pixels around the three
# bases (11 + 13 + 13 = 37). They are not claimed to be the authors'.
CANONICAL_BUCKETS: tuple[Size, ...] = tuple(
    size for base, reach in ((512, 5), (768, 6), (1024, 6))
    for size in constant_sum_buckets(base, reach))

# The sizes that FLUX.1 Kontext was trained on: Black Forest Labs' and diffusers' list.
KONTEXT_BUCKETS: tuple[Size, ...] = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184),
    (944, 1104), (1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752),
    (1456, 720), (1504, 688), (1568, 672),
)
NAMED = {'canonical': CANONICAL_BUCKETS, 'kontext': KONTEXT_BUCKETS}


def ratio_buckets(base: int, step: int = GRID) -> tuple[Size, ...]:
  """Query-Kontext's seven aspect ratios in both orientations (L066), 13 sizes.

  Args:
    base: the area is about ``base ** 2`` pixels.
    step: both sides are multiples of it.

  Returns:
    Sizes, wide ones first.
  """
  return _both_orientations(
      (_multiple(base * math.sqrt(short / long), step),
       _multiple(base * math.sqrt(long / short), step)) for short, long in RATIOS)


def generated_buckets(area: int, step: int = GRID, max_aspect: float = MAX_ASPECT
                      ) -> tuple[Size, ...]:
  """All sizes of about one area whose short side is any multiple of ``step``.

  Args:
    area: in pixels.
    step: both sides are multiples of it.
    max_aspect: the long side is at most so many times the short one.

  Returns:
    Sizes, wide ones first.
  """
  shorts = range(_multiple(math.sqrt(area / max_aspect), step), math.isqrt(area) + 1, step)
  sizes = ((short, _multiple(area / short, step)) for short in shorts)
  return _both_orientations(size for size in sizes if size[1] <= max_aspect * size[0])


def bucket_set(name: str, where: str = 'config.data.buckets') -> tuple[Size, ...]:
  """The buckets that a config names.

  Args:
    name: ``canonical``: the 37 of L020; ``kontext``: the 17 of FLUX.1 Kontext;
      ``square:512``: one square;
      ``ratios:512`` or ``ratios:512/16``: seven aspects at 512 x 512 pixels, in steps of 16;
      ``area:1048576``, ``area:1048576/16`` or ``area:1048576/16/4``: every aspect up to 4 at that
      many pixels, in steps of 16.
    where: the field or flag that names them, for errors.

  Returns:
    Sizes; not empty, all different.

  Raises:
    UserError: an unknown name, or one that gives no sizes.
  """
  if name in NAMED:
    return NAMED[name]
  found = re.fullmatch(r'(square|ratios|area):(\d+)(?:/(\d+))?(?:/(\d+))?', name)
  numbers = [int(number) for number in found.groups()[1:] if number] if found else []
  limits = {'square': 1, 'ratios': 2, 'area': 3}
  if not found or 0 in numbers or len(numbers) > limits[found[1]]:
    raise user_error(where, name, 'use one of canonical, kontext, square:SIDE, '
                     'ratios:SIDE[/STEP], area:PIXELS[/STEP[/MAX_ASPECT]], for example ratios:512 '
                     'or area:1048576/16')
  makers = {'square': lambda side: ((side, side),), 'ratios': ratio_buckets,
            'area': generated_buckets}
  sizes = makers[found[1]](*numbers)
  if not sizes:
    raise user_error(where, name, 'gives no sizes; use a larger area or a smaller step')
  return sizes


def area_size(size: Size, area: int, step: int = AREA_STEP) -> Size:
  """The size of about ``area`` pixels with much the same shape, as Qwen-Image-Edit has its images.

  Args:
    size: (height, width) of the image.
    area: in pixels, more or less than the image has.
    step: both sides are multiples of it.
  """
  ratio = size[1] / size[0]
  width = math.sqrt(area * ratio)
  height, width = (max(round(side / step), 1) * step for side in (width / ratio, width))
  return height, width


def aspect_error(size: Size, bucket: Size) -> float:
  """|log of the ratio of aspects|: 0 where the bucket has the very shape of the image."""
  return abs(math.log(size[0] / size[1]) - math.log(bucket[0] / bucket[1]))


def best_bucket(size: Size, buckets: Sequence[Size] = CANONICAL_BUCKETS) -> Size:
  """The bucket of least aspect error; among equals the one nearest in area, then the first.

  Among Kontext's own buckets it is the one of least difference in width / height, as published.
  """
  area = size[0] * size[1]
  if tuple(buckets) == KONTEXT_BUCKETS:
    return min(buckets, key=lambda bucket: abs(size[1] / size[0] - bucket[1] / bucket[0]))

  def key(bucket: Size) -> tuple[float, float]:
    # Rounded so that equal shapes of other sizes count as equal.
    return (round(aspect_error(size, bucket), 9),
            abs(math.log(area / (bucket[0] * bucket[1]))))

  return min(buckets, key=key)


def _multiple(side: float, step: int) -> int:
  """The nearest multiple of ``step`` that is not 0."""
  return max(round(side / step), 1) * step


def _both_orientations(sizes: Iterable[Size]) -> tuple[Size, ...]:
  return tuple(sorted({turned for size in sizes for turned in (size, size[::-1])},
                      key=lambda size: (size[0] / size[1], size)))
