"""``jaxgen hello``: draws from the small trained run that is shipped with jaxgen."""

import os
import time
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from jaxgen.checkpoints import packed
from jaxgen.checkpoints.weights import is_weights
from jaxgen.core.files import check_place
from jaxgen.core.files import write_bytes
from jaxgen.core.image_files import to_png
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.load import load_run

SHIPPED = epath.Path(__file__).parent / 'hello.zip'  # tools/pack_hello.py writes it
RUN, PICTURE = 'run', 'hello.png'
SIDE, COLUMNS, LETTERS = 224, 3, 13  # pixels of an image and of a letter


def hello(out: str, prompts: Sequence[str] = (), seed: int = 0) -> str:
  """Draws and writes one picture, and the run, which other commands take as a ``--workdir``.

  Args:
    out: folder for ``hello.png`` and ``run/``, which is kept from an earlier call.
    prompts: what to draw; some of those that the run was scored on unless given.
    seed: of the images.

  Returns:
    The lines that tell what was drawn and where it is.

  Raises:
    UserError: the folder cannot be written.
  """
  began = time.monotonic()
  check_place(out)
  about, workdir = packed.read_about(SHIPPED), os.path.join(out, RUN)
  if not is_weights(workdir):
    packed.unpack(SHIPPED, workdir)
  prompts = list(prompts or about['prompts'])
  images = load_run(workdir).generate(prompts, seed=seed)
  file = epath.Path(out) / PICTURE
  tiles = [_tile(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
  write_bytes(file, to_png(image_grid(tiles, min(COLUMNS, len(tiles)))))
  return '\n'.join([
      f'{about["what"]}; scores on held-out problems: ' + ', '.join(
          f'{task} {score:.2f}' for task, score in about['scores'].items()),
      *(f'  {number}. {prompt}' for number, prompt in enumerate(prompts, start=1)),
      f'drawn in {time.monotonic() - began:.0f} s: {file}',
      f'draw more: jaxgen sample --workdir={workdir} --prompt="{prompts[0]}" --out={out}/more'])


def _tile(image: np.ndarray, prompt: str) -> np.ndarray:
  """An image uint8[H, W, 3], enlarged, above its prompt; uint8[H', ``SIDE``, 3]."""
  font = ImageFont.load_default(LETTERS)
  lines = _wrapped(prompt, font)
  canvas = Image.new('RGB', (SIDE, SIDE + (len(lines) + 1) * (LETTERS + 3)), 'white')
  canvas.paste(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST))
  ImageDraw.Draw(canvas).multiline_text((4, SIDE + 4), '\n'.join(lines), 'black', font, spacing=3)
  return np.asarray(canvas)


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
  """The text in lines that are no wider than an image."""
  lines = ['']
  for word in text.split():
    longer = f'{lines[-1]} {word}'.strip()
    if lines[-1] and font.getlength(longer) > SIDE - 8:
      lines.append(word)
    else:
      lines[-1] = longer
  return lines
