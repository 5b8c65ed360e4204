"""Scores a run on the drawn world: it solves held-out problems of its tasks, which are marked.

Writes into the workdir: ``evaluation.json`` (accuracies, settings and a few verdicts),
``samples/evaluation/`` (the images of those verdicts, and ``results.json``) and
``samples/evaluation.png`` (the same images side by side). The scores of random weights go to files
named ``evaluation_untrained``, those of other roles or languages to files that name them.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.image_files import to_png
from jaxgen.evaluation.shapes.cases import Answer
from jaxgen.evaluation.shapes.cases import Case
from jaxgen.evaluation.shapes.cases import images_of
from jaxgen.evaluation.shapes.cases import make_cases
from jaxgen.evaluation.shapes.cases import texts_of
from jaxgen.sampling.images import columns_of
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.interleaved import Options
from jaxgen.sampling.jobs import progress
from jaxgen.sampling.jobs import save_results
from jaxgen.sampling.load import load_run
from jaxgen.sampling.load import Run
from jaxgen.sampling.reading import writes

SHOWN = 8  # cases kept per task
# Drawn dialogues have four images at the most, and sentences of half as many tokens.
OPTIONS = Options(max_images=5, max_tokens=64)
Marks = list[Mapping[str, Any]]  # of each image of a case


def evaluate(workdir: str, *, prompts: int, images_per_prompt: int, seed: int = 0,
             weights: str = 'ema', preset: str = '', untrained: bool = False, tasks: str = '',
             given: str = '', language: str = '') -> dict[str, float]:
  """Scores the newest checkpoint of a run.

  Args:
    workdir: the run's workdir.
    prompts: number of held-out problems per task.
    images_per_prompt: number of times that each is drawn.
    seed: seeds the choice of problems and the sampling.
    weights: ``ema`` or ``params``.
    preset: of the system; '' = as the run's config says.
    untrained: whether to score a random initialisation of the same system as well.
    tasks: drawn tasks with commas; '' = those of the run's sources.
    given: see ``make_cases``; such scores are in files of their own,
      ``evaluation_<role>_<language>``.
    language: likewise.

  Returns:
    The accuracy of each task, and ``overall``, their mean.
  """
  for flag, value in (('--prompts', prompts), ('--images-per-prompt', images_per_prompt)):
    if value < 1:
      raise user_error(flag, value, 'use at least 1')
  run = load_run(workdir, weights, preset)
  cases = make_cases(run.config, tasks, prompts=prompts, images=images_per_prompt, seed=seed,
                     converses=writes(run.system), given=given, language=language)
  name = '_'.join(word for word in ('evaluation', given, language) if word)
  settings = dict(prompts=prompts, images_per_prompt=images_per_prompt, seed=seed, weights=weights,
                  preset=preset, copied=_copied(cases))
  table = _score(run, cases, workdir, name, settings)
  if settings['copied']:
    _say('inputs copied', settings['copied'])
  if untrained:
    random = dataclasses.replace(run, params=jax.jit(run.system.init)(jax.random.key(seed)))
    _score(random, cases, workdir, f'{name}_untrained', settings)
  return table


def accuracies(marked: Sequence[tuple[str, Marks]]) -> dict[str, float]:
  """Share of right images per task, and ``overall``, the mean of the tasks."""
  table = {task: _mean(marks, 'correct') for task, marks in _by_task(marked).items()}
  table['overall'] = float(np.mean(list(table.values())))
  return table


def _score(run: Run, cases: Sequence[Case], workdir: str, name: str,
           settings: dict[str, Any]) -> dict[str, float]:
  started = time.monotonic()
  answers = _answers(run, cases, name)
  marks = [case.mark(found) for case, found in zip(cases, answers, strict=True)]
  marked = [(case.task, found) for case, found in zip(cases, marks, strict=True)]
  table = accuracies(marked)
  tasks = [case.task for case in cases]
  shown = [index for task in dict.fromkeys(tasks) for index in _spread(
      [place for place, other in enumerate(tasks) if other == task])]
  folder = epath.Path(workdir) / 'samples'
  samples = _save(folder / name, [(cases[index], answers[index], marks[index]) for index in shown])
  images = [image for index in shown for image in images_of(answers[index])]
  if images:  # a run may have written texts alone
    grid = image_grid(images, columns=max(1, len(shown) // len(set(tasks))))
    write_bytes(folder / f'{name}.png', to_png(grid))
  record = dict(
      settings, score=table, details=_details(marked), copies=_copies(cases, answers),
      seconds=round(time.monotonic() - started, 1),
      images=sum(len(images_of(answer)) for answer in answers), samples=samples)
  write_text(epath.Path(workdir) / f'{name}.json', json.dumps(record, indent=2))
  _say(name, table)
  return table


def _say(what: str, table: Mapping[str, float]) -> None:
  print(f'{what}: ' + '  '.join(f'{task} {value:.3f}' for task, value in table.items()),
        flush=True)


def _answers(run: Run, cases: Sequence[Case], name: str) -> list[Answer]:
  """What the run gives for each case: the images of its requests, or texts and images in turn."""
  requests = [request for case in cases for request in case.requests]
  drawn = iter(run.draw(requests, progress=progress(f'{name}: image')) if requests else ())
  answers = [[image for _ in case.requests for image in next(drawn)] for case in cases]
  places = [index for index, case in enumerate(cases) if case.dialogue]
  report, done = progress(f'{name}: dialogue'), 0
  for event in run.converse([cases[index].dialogue for index in places], OPTIONS) if places else ():
    if event.part:
      part = event.part
      answers[places[event.index]].append(part.image if part.is_image else part.text)
    else:
      done += 1
      report(done, len(places))
  return answers


def _save(folder: epath.Path, shown: Sequence[tuple[Case, Answer, Marks]]) -> list[dict[str, Any]]:
  """Writes what was drawn, and the pictures of the report; returns the entries of the record."""
  requests = [request for case, _, _ in shown for request in case.requests]
  drawn = [images for case, found, _ in shown for images in _shared_out(case, found)]
  files = iter(save_results(requests, drawn, str(folder)))
  entries = []
  for number, (case, answer, marks) in enumerate(shown):
    own = [next(files) for request in case.requests for _ in request.sample.targets]
    entry = dict(task=case.task, caption=case.text, correct=all(mark['correct'] for mark in marks))
    if case.expected:
      own, images = [str(folder / f'case_{number:04d}.png')], images_of(answer)
      write_bytes(own[0], to_png(columns_of(case.inputs, images, case.expected)))
      entry |= dict(marks=marks,
                    columns=len(case.inputs) + max(len(images), len(case.expected)))
    if case.dialogue:
      entry['texts'] = list(itertools.zip_longest(texts_of(answer), texts_of(case.due)))
    entries.append(entry | dict(file=_below(own[0], folder)))
  return entries


def _shared_out(case: Case, images: Answer) -> Iterator[Sequence[np.ndarray]]:
  """The images of each request of a case."""
  rest = iter(images)
  for request in case.requests:
    yield [next(rest) for _ in request.sample.targets]


def _below(file: str, folder: epath.Path) -> str:
  """The path of a file of ``samples/<name>``, from the workdir."""
  return str(epath.Path(file).relative_to(folder.parent.parent))


def _details(marked: Sequence[tuple[str, Marks]]) -> dict[str, dict[str, float]]:
  """Task -> mean of every mark but ``correct``."""
  details = {}
  for task, marks in _by_task(marked).items():
    names = [name for name in marks[0] if name != 'correct']
    found = {name: _mean(marks, name) for name in names}
    if found:
      details[task] = found
  return details


def _copied(cases: Sequence[Case]) -> dict[str, float]:
  """The accuracies of giving back the first input; empty where no task has one."""
  marked = [(case.task, case.mark([part if isinstance(part, str) else case.inputs[0]
                                   for part in case.due])) for case in cases
            if case.inputs and case.inputs[0].shape == case.expected[0].shape]
  return accuracies(marked) if marked else {}


def _copies(cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
  """Task -> share of the images that are nearer to the first given image than to the right one."""
  found: dict[str, list[bool]] = {}
  for case, answer in zip(cases, answers, strict=True):
    if case.inputs and case.inputs[0].shape == case.expected[0].shape:
      # An answered dialogue may have more images than are due, or fewer.
      found.setdefault(case.task, []).extend(
          _distance(image, case.inputs[0]) < _distance(image, right)
          for image, right in zip(images_of(answer), case.expected))
  return {task: float(np.mean(values)) for task, values in found.items() if values}


def _distance(image: np.ndarray, other: np.ndarray) -> float:
  return float(np.square(image.astype(np.float64) - other).mean())


def _by_task(marked: Sequence[tuple[str, Marks]]) -> dict[str, Marks]:
  found: dict[str, Marks] = {}
  for task, marks in marked:
    found.setdefault(task, []).extend(marks)
  return found


def _mean(marks: Marks, name: str) -> float | None:
  values = [mark[name] for mark in marks if mark[name] is not None]
  return float(np.mean(values)) if values else None


def _spread(places: Sequence[int]) -> list[int]:
  """``SHOWN`` of the indices, evenly spaced so that they cover different prompts."""
  count = min(SHOWN, len(places))
  return [places[index * len(places) // count] for index in range(count)]
