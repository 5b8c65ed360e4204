"""Images as the bytes of PNG files, and side by side."""

import io

import numpy as np
from PIL import Image


def to_png(image: np.ndarray) -> bytes:
  """uint8[H, W, 3] as the bytes of a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def image_grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
  """Tiles uint8[n, H, W, 3] row by row on white, ``gap`` pixels apart; one uint8[H', W', 3]."""
  count, height, width, _ = images.shape
  rows = -(-count // columns)
  canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
  for index, image in enumerate(images):
    top, left = index // columns * (height + gap), index % columns * (width + gap)
    canvas[top:top + height, left:left + width] = image
  return canvas
