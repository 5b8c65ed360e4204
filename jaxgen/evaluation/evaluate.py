"""Scores a run on ``shapes``: samples held-out prompts of the six tasks and checks the images.

Writes into the workdir: ``evaluation.json`` (accuracies, settings and a few verdicts),
``samples/evaluation/`` (the images of those verdicts, and ``results.json``) and
``samples/evaluation.png`` (the same images as a grid, one row per task). The scores of random
weights go to files named ``evaluation_untrained``.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data import shapes
from jaxgen.evaluation import shapes_scorer
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.images import to_png
from jaxgen.sampling.jobs import save_results
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import make_requests

SHOWN = 8  # images kept per task


def evaluate(workdir: str, *, prompts: int, images_per_prompt: int, seed: int = 0,
             weights: str = 'ema', untrained: bool = False) -> dict[str, float]:
  """Scores the newest checkpoint of a run.

  Args:
    workdir: the run's workdir.
    prompts: number of held-out prompts per task.
    images_per_prompt: number of images sampled per prompt.
    seed: seeds the choice of prompts and the sampling.
    weights: ``ema`` or ``params``.
    untrained: whether to score a random initialisation of the same system as well.

  Returns:
    The accuracy of each task, and ``overall``, their mean.
  """
  for flag, value in (('--prompts', prompts), ('--images-per-prompt', images_per_prompt)):
    if value < 1:
      raise user_error(flag, value, 'use at least 1')
  run = load_run(workdir, weights)
  scenes = [scene for scene in shapes.evaluation_prompts(prompts, seed)
            for _ in range(images_per_prompt)]
  settings = dict(prompts=prompts, images_per_prompt=images_per_prompt, seed=seed, weights=weights)
  table = _score(run, scenes, workdir, 'evaluation', settings)
  if untrained:
    random = dataclasses.replace(run, params=jax.jit(run.system.init)(jax.random.key(seed)))
    _score(random, scenes, workdir, 'evaluation_untrained', settings)
  return table


def _score(run: Run, scenes: Sequence[shapes.Scene], workdir: str, name: str,
           settings: dict[str, Any]) -> dict[str, float]:
  started = time.monotonic()
  captions = [scene.caption for scene in scenes]
  requests = make_requests(run.config, captions, seed=settings['seed'])
  drawn = run.draw(requests, progress=_progress(name, started))
  images = np.stack([image for image, in drawn])
  verdicts = [shapes_scorer.score(image, scene.request)
              for image, scene in zip(images, scenes, strict=True)]
  tasks = [scene.task for scene in scenes]
  table = shapes_scorer.accuracies(list(zip(tasks, verdicts, strict=True)))
  shown = [index for task in shapes.TASKS for index in _spread(
      [place for place, other in enumerate(tasks) if other == task])]
  folder = epath.Path(workdir) / 'samples'
  files = save_results([requests[index] for index in shown], [drawn[index] for index in shown],
                       str(folder / name))
  grid = image_grid(images[shown], columns=len(shown) // len(shapes.TASKS))
  (folder / f'{name}.png').write_bytes(to_png(grid))
  record = dict(
      settings, score=table, seconds=round(time.monotonic() - started, 1), images=len(images),
      samples=[dict(task=tasks[index], caption=captions[index], correct=verdicts[index],
                    file=str(epath.Path(file).relative_to(epath.Path(workdir))))
               for index, file in zip(shown, files, strict=True)])
  (epath.Path(workdir) / f'{name}.json').write_text(json.dumps(record, indent=2))
  print(f'{name}: ' + '  '.join(f'{task} {value:.3f}' for task, value in table.items()), flush=True)
  return table


def _spread(places: Sequence[int]) -> list[int]:
  """``SHOWN`` of the indices, evenly spaced so that they cover different prompts."""
  count = min(SHOWN, len(places))
  return [places[index * len(places) // count] for index in range(count)]


def _progress(name: str, started: float):
  """A callback that prints the sampling progress and the remaining time."""
  def report(done: int, total: int) -> None:
    left = (time.monotonic() - started) * (total - done) / done
    print(f'{name}: image {done}/{total}, {left:.0f} s left', flush=True)

  return report
