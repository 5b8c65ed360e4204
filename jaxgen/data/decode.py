"""Decodes any image file to uint8 RGB; what cannot be decoded is an error that names it.

Inputs are only ever read.
"""

import io

import numpy as np
from etils import epath
from PIL import Image
from PIL import ImageOps

from jaxgen.data.sample import FileImage

# Of a mode with 16 bits each value v stands for v / 65535.
_SIXTEEN_BIT_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N')
_MAX_PIXELS = 400_000_000  # larger is taken for a decompression bomb


class DecodeError(Exception):
  """The image cannot be read; the message says why."""


def decode(image: bytes | np.ndarray | FileImage) -> np.ndarray:
  """Decodes one image.

  The EXIF rotation is applied; transparency is laid on white; palettes, grey, CMYK and 16-bit
  values become 8-bit RGB; of an animation the first frame is taken.

  Args:
    image: bytes of an image file, a file, or uint8[H, W, 3], which passes through.

  Returns:
    uint8[H, W, 3].

  Raises:
    DecodeError: the file is missing, truncated, no image or of a kind that has no clear meaning.
  """
  if isinstance(image, np.ndarray):
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
      raise DecodeError(f'array is {image.dtype}{list(image.shape)}, not uint8[H, W, 3]')
    return image
  try:
    data = epath.Path(image.path).read_bytes() if isinstance(image, FileImage) else image
    with Image.open(io.BytesIO(data)) as opened:
      if opened.width * opened.height > _MAX_PIXELS:
        raise DecodeError(f'{opened.width} x {opened.height} pixels are too many')
      opened.load()
      return np.asarray(_to_rgb(ImageOps.exif_transpose(opened)))
  except FileNotFoundError as error:
    raise DecodeError('no such file') from error
  # PIL reports broken files by nearly every built-in error, depending on the format.
  except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError,
          ZeroDivisionError, Image.DecompressionBombError) as error:
    raise DecodeError(f'{type(error).__name__}: {" ".join(str(error).split())}') from error


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode in _SIXTEEN_BIT_MODES:
    values = np.asarray(image).astype(np.float32) / 65535
    image = Image.fromarray(np.round(255 * np.clip(values, 0, 1)).astype(np.uint8))
  elif image.mode == 'F':
    raise DecodeError('floating-point image of unknown range; save it as 8 or 16 bit')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
  return image.convert('RGB')
