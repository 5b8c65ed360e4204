"""Draws one problem of each drawn task, what is given and what is expected, and prints their texts.

  python tools/draw_tasks.py docs/images/shapes.png

makes the picture and the table of docs/shapes.md.
"""

import sys

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from jaxgen.data.sample import Sample
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.source import DRAWN
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.sampling.images import GAP
from jaxgen.sampling.images import image_grid

SIZE = 64
COUNT = (2, 3)  # references, outputs, turns or panels
WIDTH, HEIGHT, HEAD = 400, SIZE + 30, 20  # of a problem in the picture, and of its name
COLUMNS = 2
ARROW = 18  # between what is given and what is expected


def main(path: str) -> None:
  """Writes the picture and prints the rows of the table."""
  tiles = []
  for task in DRAWN:
    sample = example(task)
    tiles.append(tile(task, sample))
    print(f'| `{task}` | {text(sample)} |')
  Image.fromarray(image_grid(tiles, COLUMNS)).quantize(128).save(path, optimize=True)


def example(task: str) -> Sample:
  """The first problem of a task."""
  return DrawnSource(task, Settings(((SIZE, SIZE),), count=COUNT))[0]


def text(sample: Sample) -> str:
  """All texts of a sample in one line."""
  return ' / '.join(part.text for part in sample.texts)


def tile(name: str, sample: Sample) -> np.ndarray:
  """What is given, an arrow, what is expected; uint8[HEIGHT, WIDTH, 3]."""
  canvas = Image.new('RGB', (WIDTH, HEIGHT), 'white')
  draw = ImageDraw.Draw(canvas)
  draw.text((0, 0), name, 'black', ImageFont.load_default(14))
  left = 0
  given = [part.image for part in sample.images if part.role != 'target']
  for images in (given, [part.image for part in sample.targets]):
    if images is not given:
      middle = HEAD + SIZE // 2
      draw.polygon([(left + 4, middle - 6), (left + 4, middle + 6), (left + 12, middle)], 'black')
      left += ARROW
    for image in images:
      canvas.paste(Image.fromarray(image), (left, HEAD))
      left += SIZE + GAP
  return np.asarray(canvas)


if __name__ == '__main__':
  main(sys.argv[1])
