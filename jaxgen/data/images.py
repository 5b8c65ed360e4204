"""Fits images by role: what size each image of a sample is brought to, and how."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxgen.core.errors import user_error
from jaxgen.data.buckets import Size
from jaxgen.data.buckets import area_size
from jaxgen.data.buckets import best_bucket
from jaxgen.data.decode import Picture

MODES = ('crop', 'pad', 'stretch')
# OmniGen2's largest area in pixels with 1, 2, 3 and 4 or more references (L145).
REFERENCE_PIXELS = (1024**2, 1024**2, 768**2, 512**2)


@dataclasses.dataclass(frozen=True)
class Rules:
  """How the images of a sample are fitted.

  Attributes:
    buckets: sizes of targets, multiples of the factor.
    reference_buckets: sizes of references; () = their own size, shrunk as the limits ask.
    reference_pixels: largest area of each reference where there are 1, 2, ... of them; the last
      number holds for all larger counts.
    max_side: longest side of a reference at its own size in pixels; 0 = no limit.
    area: every given image, sources too, is stretched to about the area of ``reference_pixels``,
      whatever its own and the target's size (``buckets.area_size``).
  """

  buckets: tuple[Size, ...]
  reference_buckets: tuple[Size, ...] = ()
  reference_pixels: tuple[int, ...] = REFERENCE_PIXELS
  max_side: int = 0
  area: bool = False


class Given(NamedTuple):
  """An image before it is fitted.

  Attributes:
    role: 'context', 'source', 'reference' or 'target'.
    size: of its pixels as shown; None for a target that is only asked for.
    wanted: the size that it must have, None = as the rules say.
  """

  role: str
  size: Size | None
  wanted: Size | None = None


@dataclasses.dataclass(frozen=True)
class Planned:
  """How one image is fitted.

  Attributes:
    size: that it is brought to.
    like: size of the whole image that ``fit_image`` computes the crop or padding from: its own, or
      that of the target where a source is aligned with one. None = no pixels to fit.
    aligned: False for a source of another shape than its target: they show different parts, so
      that pixels of one do not lie on those of the other.
    mode: of ``fit_image``, where it is not the config's.
  """

  size: Size
  like: Size | None = None
  aligned: bool = True
  mode: str | None = None


def plan_sizes(images: Sequence[Given], rules: Rules, factor: int) -> list[Planned]:
  """Chooses a size for every image that the denoiser gets.

  Targets go to the bucket nearest in shape, or to the size that was asked for. Sources get the
  size of the first target; where both have one shape they are cropped alike and stay aligned.
  References and context images keep their shape within the limits, or have buckets of their own.
  With ``rules.area`` every given image has a size of its own instead, near to its shape.

  Args:
    images: of one sample, in any order.
    rules: see there.
    factor: both sides of every size are multiples of it.

  Returns:
    One plan for each image, in the given order.

  Raises:
    UserError: a size that is no multiple of the factor, or a target without any size.
  """
  sources = [image for image in images if image.role == 'source']
  targets = [image for image in images if image.role == 'target']
  given = len(images) - len(targets)
  fallback = sources[0].size if sources else None
  lead = targets[0] if targets else None
  lead_size = _target_size(lead, fallback, rules, factor) if lead else None

  def plan(image: Given) -> Planned:
    if rules.area and image.role != 'target':
      size = image.wanted or area_size(image.size, pixels_of(rules.reference_pixels, given))
      return Planned(_whole(size, factor, 'size of a given image'), image.size, mode='stretch')
    if image.role not in ('source', 'target'):
      return Planned(_reference_size(image, given - len(sources), rules, factor), image.size)
    if image.role == 'target' or lead is None:
      return Planned(_target_size(image, fallback, rules, factor), image.size)
    if lead.size is None:
      return Planned(lead_size, image.size)
    aligned = same_shape(image.size, lead.size)
    return Planned(lead_size, lead.size if aligned else image.size, aligned)
  return [plan(image) for image in images]


def native_size(size: Size, factor: int, max_pixels: int = 0, max_side: int = 0) -> Size:
  """An image's own size, shrunk to the limits and then down to multiples of the factor.

  Args:
    size: (height, width) in pixels.
    factor: sides are multiples of it, and at least one factor long.
    max_pixels: largest area, 0 = no limit.
    max_side: longest side, 0 = no limit.

  Returns:
    (height, width); never larger than the image but where a side is shorter than the factor.
  """
  scale = 1.0
  if max_pixels:
    scale = min(scale, math.sqrt(max_pixels / (size[0] * size[1])))
  if max_side:
    scale = min(scale, max_side / max(size))
  # A side that the limit makes a multiple must not fall below it by a rounding error.
  height, width = (max(int(side * scale + 1e-6) // factor, 1) * factor for side in size)
  return height, width


def pixels_of(reference_pixels: Sequence[int], count: int) -> int:
  """Area of each of ``count`` images, see ``Rules.reference_pixels``."""
  return reference_pixels[min(count, len(reference_pixels)) - 1]


def same_shape(first: Size, second: Size) -> bool:
  """True where one image may be the other one resized, each side rounded up or down."""
  small, large = sorted((first, second))
  low = max((side - 1) / whole for side, whole in zip(small, large, strict=True))
  high = min((side + 1) / whole for side, whole in zip(small, large, strict=True))
  return low < high


def fit_image(image: np.ndarray | Picture, size: Size, mode: str = 'crop',
              like: Size | None = None) -> np.ndarray:
  """Brings an image to a size.

  Args:
    image: uint8[H, W, 3], or a picture, perhaps decoded at reduced scale.
    size: (height, width) wanted.
    mode: ``crop`` covers the size and cuts the middle out; ``pad`` shows the whole image in the
      middle of a white one (L020); ``stretch`` changes its proportions where it must, by the
      filter of diffusers (FLUX.1 Kontext).
    like: size of an image of the same shape whose fit is repeated, None = the image's own. It is
      that of the target where the image is a source: sides that were rounded differently would
      otherwise move the crop.

  Returns:
    uint8[height, width, 3].
  """
  assert mode in MODES, mode
  if mode == 'stretch':
    return Picture.of(image).resize(size, filter=Image.Resampling.LANCZOS)
  return (resize_and_crop if mode == 'crop' else _resize_and_pad)(image, size, like)


def resize_and_crop(image: np.ndarray | Picture, size: Size, like: Size | None = None
                    ) -> np.ndarray:
  """Scales the image until it just covers ``size``, then cuts the middle out.

  For a square this is: short edge resized, central crop (L097). Only the middle is computed.

  Args:
    image, size, like: as for ``fit_image``.

  Returns:
    uint8[height, width, 3]; the image itself where it has the size already.
  """
  picture = Picture.of(image)
  own_height, own_width = picture.extent
  height, width = like or picture.extent
  scale = min(height / size[0], width / size[1])
  crop_height, crop_width = size[0] * scale, size[1] * scale
  top, left = (height - crop_height) / 2, (width - crop_width) / 2
  # From pixels of the image to be followed to those of this one: by 1 where they are the same.
  across, down = own_width / width, own_height / height
  first_column, first_row = picture.box[:2]
  return picture.resize(size, (
      first_column + max(left * across, 0), first_row + max(top * down, 0),
      first_column + min((left + crop_width) * across, own_width),
      first_row + min((top + crop_height) * down, own_height)))


def _resize_and_pad(image: np.ndarray | Picture, size: Size, like: Size | None) -> np.ndarray:
  picture = Picture.of(image)
  height, width = like or picture.extent
  scale = min(size[0] / height, size[1] / width)
  inner = tuple(min(max(round(side * scale), 1), limit)
                for side, limit in zip((height, width), size, strict=True))
  padded = np.full((*size, 3), 255, np.uint8)
  top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
  padded[top:top + inner[0], left:left + inner[1]] = picture.resize(inner)
  return padded


def _target_size(image: Given, fallback: Size | None, rules: Rules, factor: int) -> Size:
  shape = image.size or fallback
  if image.wanted:
    return _whole(image.wanted, factor, 'size of a target')
  if shape:
    return _whole(best_bucket(shape, rules.buckets), factor, 'buckets')
  if len(rules.buckets) > 1:
    raise user_error('size of a target', None, 'give (height, width): there is no source to take '
                     f'the shape from, and the config has {len(rules.buckets)} buckets')
  return _whole(rules.buckets[0], factor, 'buckets')


def _reference_size(image: Given, count: int, rules: Rules, factor: int) -> Size:
  if image.wanted:
    return _whole(image.wanted, factor, f'size of a {image.role} image')
  if rules.reference_buckets:
    return _whole(best_bucket(image.size, rules.reference_buckets), factor, 'reference buckets')
  return native_size(image.size, factor, pixels_of(rules.reference_pixels, count), rules.max_side)


def _whole(size: Size, factor: int, where: str) -> Size:
  if size[0] % factor or size[1] % factor:
    raise user_error(where, tuple(size), f'both sides must be multiples of {factor} pixels, the '
                     'autoencoder factor times the patch size')
  return tuple(size)
