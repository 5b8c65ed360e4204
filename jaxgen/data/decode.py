"""Decodes any image file to 8-bit RGB; what cannot be decoded is an error that names it.

Inputs are only ever read.
"""

import contextlib
import dataclasses
import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import ExifTags
from PIL import Image
from PIL import ImageOps
from PIL import PngImagePlugin
from PIL import UnidentifiedImageError

from jaxgen.data.buckets import Size
from jaxgen.data.sample import encoded
from jaxgen.data.sample import FileImage

# Of a mode with 16 bits each value v stands for v / 65535.
_SIXTEEN_BIT_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N')
_MAX_PIXELS = 400_000_000  # larger is taken for a decompression bomb
# Pillow has lower limits of its own: 179 million pixels, and 1 MiB for one text within a PNG file,
# which programs fill with more. All texts together may still have no more than 64 MiB.
Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Pillow reads more, some by starting other programs (EPS); no photograph comes in those.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'AVIF', 'GIF', 'BMP', 'DIB', 'TIFF', 'PPM', 'JPEG2000',
            'TGA', 'ICO')
_REDUCIBLE = ('JPEG', 'MPO')
_ADDRESS = re.compile(r' at 0x[0-9a-f]+')
# EXIF orientations that swap height and width; those whose right edge, as stored with any swap
# undone, is shown at the left; those whose bottom edge is shown at the top.
_SIDEWAYS, _MIRRORED, _UPENDED = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
# A JPEG decoded at reduced scale keeps this many times the pixels per side that are asked for, so
# that the bicubic filter still does most of the shrinking; PIL's thumbnails have the same gap.
_GAP = 2

Box = tuple[float, float, float, float]


class DecodeError(Exception):
  """The image cannot be read; the message says why."""


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image in memory that is still to be resized.

  Attributes:
    pixels: uint8[H, W, 3], or an RGB image of PIL, which is resized without a copy.
    box: (left, top, right, bottom) of the whole image in these pixels. Where a scale does not
      divide a side, the row or column at one edge stands for less than a pixel.
  """

  pixels: np.ndarray | Image.Image
  box: Box

  @classmethod
  def of(cls, image: 'np.ndarray | Picture') -> 'Picture':
    """A uint8[H, W, 3] as a whole picture; a picture passes through."""
    return image if isinstance(image, Picture) else cls(image, (0, 0, *image.shape[1::-1]))

  @property
  def extent(self) -> tuple[float, float]:
    """(height, width) of the whole image in these pixels, perhaps with fractions."""
    left, top, right, bottom = self.box
    return bottom - top, right - left

  def resize(self, size: Size, box: Box | None = None,
             filter: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Resamples a part of the picture, None = the whole image, by a filter of PIL, which widens as
    it shrinks.

    Returns:
      uint8[height, width, 3]; the pixels themselves where they have the size already.
    """
    pixels, box = self.pixels, box or self.box
    own = pixels.shape[:2] if isinstance(pixels, np.ndarray) else pixels.size[::-1]
    if own == tuple(size) and box == (0, 0, own[1], own[0]):
      return np.asarray(pixels)
    if isinstance(pixels, np.ndarray):
      pixels = Image.fromarray(pixels)
    return np.asarray(pixels.resize(size[::-1], filter, box=box))


def decode(image: bytes | np.ndarray | FileImage) -> np.ndarray:
  """Decodes one image in full.

  The EXIF rotation is applied; transparency is laid on white; palettes, grey, CMYK and 16-bit
  values become 8-bit RGB; of an animation the first frame is taken.

  Args:
    image: bytes of an image file, a file, or uint8[H, W, 3], which passes through.

  Returns:
    uint8[H, W, 3].

  Raises:
    DecodeError: the file is missing, truncated, no image or of a kind that has no clear meaning.
  """
  picture = read_picture(image)
  with _errors():
    return np.asarray(picture.pixels)


def read_picture(image: bytes | np.ndarray | FileImage, at_least: Size | None = None) -> Picture:
  """Decodes one image, as ``decode`` does, to be resized.

  A JPEG that is to be shrunk can be decoded at 1/2, 1/4 or 1/8 of its size, straight from its DCT
  coefficients. Shrunk further to half of that, the result differs from that of the full image by
  0.6, 0.8 and 0.9 of 255 levels on average over 113 photographs. Decoding just as many pixels as
  are asked for would cost 1.6 to 1.9.

  Args:
    image: as for ``decode``.
    at_least: (height, width) that the image, as shown, will be shrunk to cover. A JPEG is decoded
      at the smallest scale that leaves twice as much on either side. None = in full.

  Returns:
    The whole image of H x W pixels in ceil(H / s) x ceil(W / s) at scale 1 / s.

  Raises:
    DecodeError: as ``decode``.
  """
  if isinstance(image, np.ndarray):
    return Picture.of(_checked(image))
  with _errors():
    data = file_bytes(image) if isinstance(image, FileImage) else image
    with _opened(io.BytesIO(data)) as opened:
      box = _reduce(opened, at_least) if at_least else None
      opened.load()
      box = _as_shown(box or (0, 0, *opened.size), opened)
      # In place: a copy takes 7 ms where the decoding takes 17.
      ImageOps.exif_transpose(opened, in_place=True)
      return Picture(_to_rgb(opened), box)


def file_bytes(image: FileImage) -> bytes:
  """The bytes of an image file, here or in a bucket.

  Raises:
    DecodeError: it is missing or cannot be read.
  """
  with _errors():
    return epath.Path(image.path).read_bytes()


def image_file(image: bytes | np.ndarray | FileImage) -> bytes:
  """The image of a part as the bytes of an image file.

  Raises:
    DecodeError: there is no such file.
  """
  return file_bytes(image) if isinstance(image, FileImage) else encoded(image)


def image_size(image: bytes | np.ndarray | FileImage) -> Size:
  """Size of an image as it is shown, from the header of its file; no pixel is decoded.

  Args:
    image: as for ``decode``. An orientation that a PNG file states behind its pixels, which the
      format allows, goes unnoticed.

  Returns:
    (height, width) of ``decode(image)``.

  Raises:
    DecodeError: the file is missing, no image or too large.
  """
  if isinstance(image, np.ndarray):
    return _checked(image).shape[:2]
  with _header(image) as opened:
    return opened.size if _is_sideways(opened) else opened.size[::-1]


def decoded_size(image: bytes | np.ndarray | FileImage, at_least: Size | None = None) -> Size:
  """Size that ``read_picture`` reads the image at, as its file has it, before any rotation; no
  pixel is decoded. Equal sizes mean equal pixels.

  Args:
    image, at_least: as for ``read_picture``.

  Raises:
    DecodeError: the file is missing, no image or too large.
  """
  if isinstance(image, np.ndarray):
    return _checked(image).shape[:2]
  with _header(image) as opened:
    if at_least:
      _reduce(opened, at_least)
    return opened.size[::-1]


def _checked(image: np.ndarray) -> np.ndarray:
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
    raise DecodeError(f'array is {image.dtype}{list(image.shape)}, not uint8[H, W, 3]')
  return image


@contextlib.contextmanager
def _errors() -> Iterator[None]:
  """Turns what PIL and the file system raise into ``DecodeError``."""
  try:
    yield
  except FileNotFoundError as error:
    raise DecodeError('no such file') from error
  except UnidentifiedImageError as error:
    raise DecodeError('no image of a format that is read, or damaged') from error
  # PIL reports broken files by nearly every built-in error, depending on the format.
  except (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError,
          ArithmeticError, RuntimeError, MemoryError, struct.error, zlib.error,
          Image.DecompressionBombError) as error:
    reason = _ADDRESS.sub('', ' '.join(str(error).split()))
    raise DecodeError(f'{type(error).__name__}: {reason}') from error


@contextlib.contextmanager
def _header(image: bytes | FileImage) -> Iterator[Image.Image]:
  """The image of a file of which nothing but the header is read."""
  with _errors(), contextlib.ExitStack() as stack:
    file = (stack.enter_context(epath.Path(image.path).open('rb'))
            if isinstance(image, FileImage) else io.BytesIO(image))
    yield stack.enter_context(_opened(file))


@contextlib.contextmanager
def _opened(file: io.IOBase) -> Iterator[Image.Image]:
  """The image of an open file before its pixels are read."""
  with Image.open(file, formats=_FORMATS) as opened:
    if opened.width * opened.height > _MAX_PIXELS:
      raise DecodeError(f'{opened.width} x {opened.height} pixels are too many')
    yield opened


def _is_sideways(opened: Image.Image) -> bool:
  # PngImageFile.getexif decodes the pixels to find a late chunk; the base class does not.
  return Image.Image.getexif(opened).get(ExifTags.Base.Orientation) in _SIDEWAYS


def _as_shown(box: Box, opened: Image.Image) -> Box:
  """A box from the left and upper edges of the stored pixels, where it is once they are turned."""
  orientation = opened.getexif().get(ExifTags.Base.Orientation)
  width, height = box[2:]
  across, down = opened.width - width, opened.height - height
  if orientation in _SIDEWAYS:
    width, height, across, down = height, width, down, across
  left = across if orientation in _MIRRORED else 0
  top = down if orientation in _UPENDED else 0
  return left, top, left + width, top + height


def _reduce(opened: Image.Image, at_least: Size) -> Box | None:
  """Sets the scale that the file is decoded at.

  Returns:
    (left, top, right, bottom) of the image in pixels of that scale; None at full scale.
  """
  if opened.format not in _REDUCIBLE:
    return None
  height, width = at_least[::-1] if _is_sideways(opened) else at_least
  drafted = opened.draft(None, (_GAP * width, _GAP * height))
  return drafted[1] if drafted else None


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode in _SIXTEEN_BIT_MODES:
    values = np.asarray(image).astype(np.float32) / 65535
    image = Image.fromarray(np.round(255 * np.clip(values, 0, 1)).astype(np.uint8))
  elif image.mode == 'F':
    raise DecodeError('floating-point image of unknown range; save it as 8 or 16 bit')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
  return image if image.mode == 'RGB' else image.convert('RGB')
