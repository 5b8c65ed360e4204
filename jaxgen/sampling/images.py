"""Generated images as PNG files and grids."""

import io
import json
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image


def to_png(image: np.ndarray) -> bytes:
  """uint8[H, W, 3] as the bytes of a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def save_images(images: np.ndarray, prompts: Sequence[str], folder: str) -> list[str]:
  """Writes ``0000.png``, ... and ``prompts.json`` (file name to prompt); returns the paths."""
  root = epath.Path(folder)
  root.mkdir(parents=True, exist_ok=True)
  names = [f'{index:04d}.png' for index in range(len(images))]
  for name, image in zip(names, images, strict=True):
    (root / name).write_bytes(to_png(image))
  (root / 'prompts.json').write_text(json.dumps(dict(zip(names, prompts, strict=True)), indent=2))
  return [str(root / name) for name in names]


def image_grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
  """Tiles uint8[n, H, W, 3] row by row on white, ``gap`` pixels apart; one uint8[H', W', 3]."""
  count, height, width, _ = images.shape
  rows = -(-count // columns)
  canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
  for index, image in enumerate(images):
    top, left = index // columns * (height + gap), index % columns * (width + gap)
    canvas[top:top + height, left:left + width] = image
  return canvas
