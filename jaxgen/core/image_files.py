"""Images as the bytes of PNG and JPEG files."""

import io

import numpy as np
from PIL import Image


def to_png(image: np.ndarray) -> bytes:
  """uint8[H, W, 3], or uint8[H, W] of a grey one, as the bytes of a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def to_jpeg(image: Image.Image, quality: int = 95) -> bytes:
  """A picture of any mode as the bytes of a JPEG file."""
  buffer = io.BytesIO()
  image.convert('RGB').save(buffer, 'JPEG', quality=quality)
  return buffer.getvalue()
