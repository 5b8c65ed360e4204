"""Measures how well a run draws the targets of its own training samples.

An end-to-end check on real photographs. It computes the peak signal-to-noise ratio (PSNR) between
what the run draws for a sample and the sample's target. The control has another sample's condition:
where images are given, the same text is drawn again with the images of the next sample; for plain
captions the drawing is compared with the image of the next caption. Without a much lower PSNR, the
condition had no effect.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.image_files import to_png
from jaxgen.data import tasks
from jaxgen.data.example import LatentImage
from jaxgen.data.images import resize_and_crop
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sequences import open_spec
from jaxgen.data.sequences import readable
from jaxgen.evaluation.pixels import psnr
from jaxgen.evaluation.pixels import ssim
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import as_request
from jaxgen.sampling.request import request_of

TASKS = ('pair', 'edit', 'transformation', 'reference')  # of one target that is not given


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A training sample to be drawn again.

  Attributes:
    asked: the sample as its task words it, its target with a size alone.
    target: uint8[H, W, 3], as training saw it.
    given: uint8[H, W, 3], the images for the denoiser, brought to the size of the target.
    text: the words of the record.
  """

  asked: Sample
  target: np.ndarray
  given: list[np.ndarray]
  text: str


def evaluate_fit(workdir: str, count: int, *, seed: int = 0, weights: str = 'ema',
                 preset: str = '') -> dict[str, float]:
  """Draws the first ``count`` samples of a source of the run and compares them with their targets.

  Writes ``fit.json`` and ``samples/fit.png`` (given images, targets, drawings and, where images are
  given, the control, one below the other) into the workdir.

  Args:
    workdir: a run with a source of one of ``TASKS``; its pairs, where it has some, are drawn.
    count: number of records to draw.
    seed: seeds the sampling.
    weights: ``ema`` or ``params``.
    preset: of the system; '' = as the run's config says.

  Returns:
    ``psnr`` and ``psnr_shuffled`` (means over the images, the latter of the control) and
    ``psnr_min``, in dB, ``ssim``, a mean, and ``images``, the number of images.

  Raises:
    UserError: the run has no such source, or fewer than two samples.
  """
  run = load_run(workdir, weights, preset)
  fitted = _samples(run, count)
  drawn = _drawn(run, [each.asked for each in fitted], seed)
  targets = [each.target for each in fitted]
  right = [psnr(image, target) for image, target in zip(drawn, targets, strict=True)]
  others = fitted[1:] + fitted[:1]
  shown = [*_rows([each.given for each in fitted]), targets, drawn]
  if _given(fitted[0].asked):
    swapped = _drawn(run, [_with_images_of(each.asked, other.asked)
                           for each, other in zip(fitted, others)], seed)
    wrong = [psnr(image, target) for image, target in zip(swapped, targets, strict=True)]
    shown.append(swapped)
  else:
    wrong = [psnr(image, other.target) for image, other in zip(drawn, others)]
  similar = [ssim(image, target) for image, target in zip(drawn, targets, strict=True)]
  table = dict(images=len(drawn), psnr=float(np.mean(right)), ssim=float(np.mean(similar)),
               psnr_min=float(np.min(right)),
               psnr_shuffled=float(np.mean(wrong)))
  root = epath.Path(workdir)
  write_bytes(root / 'samples' / 'fit.png',
              to_png(image_grid([image for row in shown for image in row], len(drawn))))
  write_text(root / 'fit.json', json.dumps(dict(
      table, seed=seed, weights=weights, preset=preset, captions=[each.text for each in fitted]),
                                        indent=2))
  print('fit: ' + '  '.join(f'{name} {value:.2f}' for name, value in table.items()), flush=True)
  return table


def _samples(run: Run, count: int) -> list[Fitted]:
  """The first samples of the source that is drawn, without broken records."""
  name, spec = _source(run)
  field = f'config.data.sources.{name}'
  source = open_spec(spec, run.config, f'{field}.path')
  found = []

  def read(record: Sample) -> tuple[Sample, Sample, Sequence[LatentImage]]:
    sample = tasks.worded(record, spec.task, run.config.data)
    return record, sample, run.maker(sample).images

  for _, (record, sample, images) in readable(source, count, read):
    target, = (image.pixels for image in images if image.is_target)
    given = [resize_and_crop(image.pixels, target.shape[:2]) for image in images
             if not image.is_target]
    found.append(Fitted(as_request(sample, [target.shape[:2]]), target, given,
                        ' '.join(part.text for part in record.texts)))
  if len(found) < 2:
    raise user_error('--fit', count, f'{field} has {len(found)} of these records; use 2 or more')
  return found


def _source(run: Run):
  """Name and spec of the first source of the first of ``TASKS`` that there is."""
  sources = run.config.data.sources
  for task in TASKS:
    for name, spec in sources.items():
      if spec.task == task:
        return name, spec
  raise user_error('config.data.sources', sorted(sources), f'no source of task '
                   f'{", ".join(TASKS[:-1])} or {TASKS[-1]}, so there is nothing to draw again')


def _drawn(run: Run, samples: list[Sample], seed: int) -> list[np.ndarray]:
  requests = [request_of(run.config, sample, seed=seed, number=number)
              for number, sample in enumerate(samples)]
  return [image for image, in run.draw(requests)]


def _given(sample: Sample) -> list[Part]:
  return [part for part in sample.images if not part.is_target]


def _with_images_of(sample: Sample, other: Sample) -> Sample:
  """The sample's texts and target, behind the images that another sample is given."""
  kept = (part for part in sample.parts if not part.is_image or part.is_target)
  return dataclasses.replace(sample, parts=(*_given(other), *kept))


def _rows(given: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
  """Given images by their number, an empty image where a sample has fewer; [] where none has."""
  most = max(map(len, given))
  empty = np.full((1, 1, 3), 255, np.uint8)
  return [[images[number] if number < len(images) else empty for images in given]
          for number in range(most)]
