"""Measures how well a run reproduces its training images from their captions alone.

An end-to-end check on real photographs. It computes the peak signal-to-noise ratio (PSNR) between
the image sampled for a caption and that caption's training image. As a control it compares the same
sample with another caption's image: without a much lower PSNR, the captions had no effect.
"""

import json

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.data import tasks
from jaxgen.data.decode import DecodeError
from jaxgen.data.sequences import open_spec
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.images import to_png
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import load_run


def evaluate_fit(workdir: str, count: int, *, seed: int = 0, weights: str = 'ema',
                 preset: str = '') -> dict[str, float]:
  """Samples the first ``count`` captions of the run's pairs and compares them with their images.

  Writes ``fit.json`` and ``samples/fit.png`` (originals above, samples below) into the workdir.

  Args:
    workdir: a run with a source of task ``pair``.
    count: number of records to sample.
    seed: seeds the sampling.
    weights: ``ema`` or ``params``.
    preset: of the system; '' = as the run's config says.

  Returns:
    ``psnr`` and ``psnr_shuffled`` (means over the images) and ``psnr_min``, in dB, and ``images``,
    the number of images.

  Raises:
    UserError: the run has no pairs, or fewer than two.
  """
  run = load_run(workdir, weights, preset)
  originals, captions = _pairs(run, count)
  drawn = run.generate(captions, seed=seed)
  right = np.array([psnr(image, original) for image, original in zip(drawn, originals)])
  # Each sample is compared with the image of the next caption.
  wrong = np.array([psnr(image, original)
                    for image, original in zip(drawn, np.roll(originals, -1, axis=0))])
  table = dict(images=len(drawn), psnr=float(right.mean()), psnr_min=float(right.min()),
               psnr_shuffled=float(wrong.mean()))
  root = epath.Path(workdir)
  write_bytes(root / 'samples' / 'fit.png',
              to_png(image_grid(np.concatenate([originals, drawn]), len(drawn))))
  write_text(root / 'fit.json', json.dumps(
      dict(table, seed=seed, weights=weights, preset=preset, captions=captions), indent=2))
  print('fit: ' + '  '.join(f'{name} {value:.2f}' for name, value in table.items()), flush=True)
  return table


def psnr(image: np.ndarray, original: np.ndarray) -> float:
  """Peak signal-to-noise ratio of two uint8 images in dB; infinite if they are equal."""
  error = np.mean((image.astype(np.float64) - original) ** 2)
  return float(10 * np.log10(255**2 / error)) if error else float('inf')


def _pairs(run: Run, count: int) -> tuple[np.ndarray, list[str]]:
  """The first pairs: images uint8[n, H, W, 3], preprocessed as in training, and captions."""
  data = run.config.data
  for name, spec in data.sources.items():
    if spec.task != 'pair':
      continue
    field = f'config.data.sources.{name}'
    source = open_spec(spec, run.config, f'{field}.path')
    originals, captions = [], []
    for index in range(min(count, len(source))):
      try:
        example = run.maker(tasks.worded(source[index], 'pair', data))
      except DecodeError:
        continue
      originals.append(example.images[0].pixels)
      captions.append(source[index].texts[0].text)
    if len(captions) < 2:
      raise user_error('--fit', count, f'{field} has {len(captions)} of these records; use 2 or '
                       'more')
    return np.stack(originals), captions
  raise user_error('config.data.sources', sorted(data.sources),
                   'no source of task pair, so there are no captions to draw')
