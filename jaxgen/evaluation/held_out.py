"""Measures what a run draws for samples that were held out of its training, beside a plain copy.

For data with one right answer, as views and turns of photographs. PSNR is computed between each
output and the image that it should be, and between that and the first given image, which is what a
run would draw that ignores its instruction.
"""

import collections
import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.image_files import to_png
from jaxgen.data import tasks
from jaxgen.data.example import LatentImage
from jaxgen.data.images import resize_and_crop
from jaxgen.data.sample import Sample
from jaxgen.data.sequences import open_spec
from jaxgen.data.sequences import readable
from jaxgen.data.wordings import steps_of
from jaxgen.evaluation.pixels import psnr
from jaxgen.sampling.images import columns_of
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.jobs import progress
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import as_request
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import request_of

KINDS = ('photos', 'shapes', 'subjects')  # of sources that hold samples out
SHOWN = 8  # samples on the picture
Table = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Held:
  """One held-out sample.

  Attributes:
    source: name of its source in the config.
    text: its prompt.
    request: what is drawn.
    given: uint8[H, W, 3], its first image, of the size of the outputs.
    expected: uint8[H, W, 3] each, as training would have seen them.
  """

  source: str
  text: str
  request: Request
  given: np.ndarray
  expected: list[np.ndarray]


def evaluate_held_out(workdir: str, count: int, *, seed: int = 0, weights: str = 'ema',
                      preset: str = '') -> Table:
  """Draws the first ``count`` held-out samples of every source and compares them.

  Writes ``held_out.json`` and ``samples/held_out.png`` (given and drawn, the right images below)
  into the workdir.

  Args:
    workdir: a run with sources that hold samples out and are given an image.
    count: samples of each source.
    seed: of the sampling.
    weights: ``ema`` or ``params``.
    preset: of the system; '' = as the run's config says.

  Returns:
    Name of a source, or of a source and a first step -> ``psnr`` and ``copied`` (means over the
    outputs, in dB; those that a copy gets right are left out of both), ``better``, the share of
    outputs that are nearer than the copy, and ``outputs``, their number. Steps count the first
    output alone, since later ones build on it.

  Raises:
    UserError: no such source.
  """
  run = load_run(workdir, weights, preset)
  held = [item for name in _sources(run.config) for item in _held(run, name, count, seed)]
  drawn = run.draw([item.request for item in held], progress=progress('held out'))
  table = compare(held, drawn)
  root = epath.Path(workdir)
  shown = [columns_of([item.given], images, item.expected)
           for item, images in list(zip(held, drawn))[::max(len(held) // SHOWN, 1)][:SHOWN]]
  write_bytes(root / 'samples' / 'held_out.png', to_png(image_grid(shown, columns=2)))
  write_text(root / 'held_out.json', json.dumps(
      dict(seed=seed, weights=weights, preset=preset, samples=len(held), table=table), indent=2))
  for name, row in table.items():
    print(f'{name:32} psnr {row["psnr"]:6.2f}  copied {row["copied"]:6.2f}  '
          f'better {row["better"]:.2f} of {row["outputs"]}', flush=True)
  return table


def compare(held: list[Held], drawn: list[list[np.ndarray]]) -> Table:
  """The table of ``evaluate_held_out`` from what was drawn for each sample."""
  values: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
  for item, images in zip(held, drawn, strict=True):
    steps = steps_of(item.text)
    for number, (image, wanted) in enumerate(zip(images, item.expected, strict=True)):
      pair = psnr(image, wanted), psnr(item.given, wanted)
      if np.isinf(pair[1]):
        continue
      values[item.source].append(pair)
      if not number and steps:
        values[f'{item.source}: {steps[0]}'].append(pair)
  return {name: _row(np.array(values[name])) for name in sorted(values)}


def _row(pairs: np.ndarray) -> dict[str, float]:
  found, copied = pairs.T
  return dict(psnr=float(found.mean()), copied=float(copied.mean()),
              better=float((found > copied).mean()), outputs=len(pairs))


def _sources(config: ConfigDict) -> list[str]:
  names = [name for name, spec in config.data.sources.items() if spec.kind in KINDS]
  if not names:
    raise user_error('--held-out', sorted(config.data.sources), 'no source of this run holds '
                     f'samples out; those of kind {" and ".join(KINDS)} do')
  return names


def _held(run: Run, name: str, count: int, seed: int) -> list[Held]:
  """The first held-out samples of a source, without broken records."""
  spec = run.config.data.sources[name].copy_and_resolve_references()
  spec.split = 'test'
  source = open_spec(spec, run.config, f'config.data.sources.{name}.path')
  found = []

  def read(record: Sample) -> tuple[Sample, Sequence[LatentImage]]:
    task = tasks.kind_of(record) if spec.task == 'auto' else spec.task
    sample = tasks.worded(record, task, run.config.data)
    return sample, run.maker(sample).images

  for index, (sample, images) in readable(source, count, read):
    expected = [image.pixels for image in images if image.is_target]
    given = [image.pixels for image in images if not image.is_target]
    if not given:
      raise user_error('--held-out', name, 'its samples are given no image that could be copied')
    asked = as_request(sample, [image.shape[:2] for image in expected])
    request = request_of(run.config, asked, seed=seed, number=index)
    text = ' '.join(part.text for part in sample.texts)
    found.append(Held(name, text, request, resize_and_crop(given[0], expected[0].shape[:2]),
                      expected))
  if not found:
    raise user_error('--held-out', count, f'none of these records of the source {name} can be read')
  return found
