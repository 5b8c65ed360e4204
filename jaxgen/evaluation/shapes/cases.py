"""Cases: held-out problems of the drawn world as requests to a run, and marks for its answers."""

import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.data import tasks
from jaxgen.data.sample import Sample
from jaxgen.data.shapes import geneval
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.data.shapes.source import parse_settings
from jaxgen.data.shapes.source import task_names
from jaxgen.evaluation.shapes import captions
from jaxgen.evaluation.shapes.dialogues import mark_answer
from jaxgen.evaluation.shapes.marks import mark_series
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.request import as_request
from jaxgen.sampling.request import make_requests
from jaxgen.sampling.request import TASKS
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import request_of

Images = Sequence[np.ndarray]
Answer = Sequence[str | np.ndarray]  # texts and images in turn


@dataclasses.dataclass(frozen=True)
class Case:
  """One problem to be solved.

  Attributes:
    task: name of the score that it counts for.
    text: its words.
    requests: what is to be drawn; each gives one image or several.
    mark: from the answer, the images of all requests or what the dialogue was answered with, to its
      marks, one mapping an image; ``correct`` is in each.
    inputs: images that are given; uint8[H, W, 3].
    due: an answer that would be right.
    dialogue: in place of requests, what is to be answered with texts and images.
  """

  task: str
  text: str
  requests: Sequence[Request]
  mark: Callable[[Answer], list[Mapping[str, object]]]
  inputs: Images = ()
  due: Answer = ()
  dialogue: Dialogue | None = None

  @property
  def expected(self) -> list[np.ndarray]:
    """The images of an answer that would be right."""
    return images_of(self.due)


def images_of(answer: Answer) -> list[np.ndarray]:
  """The images among texts and images."""
  return [part for part in answer if not isinstance(part, str)]


def texts_of(answer: Answer) -> list[str]:
  """The texts among texts and images."""
  return [part for part in answer if isinstance(part, str)]


def make_cases(config: ConfigDict, names: str, *, prompts: int, images: int, seed: int,
               converses: bool = False, given: str = '', language: str = '') -> list[Case]:
  """The cases of an evaluation.

  Args:
    config: of the run; its drawn sources say which tasks it was trained on.
    names: tasks with commas, of ``DRAWN`` or ``captions``; '' takes those of the sources.
    prompts: problems of each task.
    images: times that each is drawn.
    seed: of problems and noise.
    converses: the run answers dialogues; one that writes no text draws each of their images behind
      the true texts and images before it.
    given: role of the given images, of which a problem has one then; '' = as the task has them.
    language: of the words; '' = as the sources have them.

  Raises:
    UserError: an unknown task or language, captions in another language, or problems that the run
      cannot be asked.
  """
  wanted = _wanted(config, names)
  if language and 'captions' in wanted:
    raise user_error('--language', language, 'captions are English; name drawn tasks by --tasks')
  cases: list[Case] = []
  if 'captions' in wanted:
    scenes = [scene for scene in geneval.evaluation_prompts(prompts, seed) for _ in range(images)]
    asked = make_requests(config, [scene.caption for scene in scenes], seed=seed)
    cases += [Case(scene.task, scene.caption, [request], _mark_caption(scene.request))
              for scene, request in zip(scenes, asked, strict=True)]
  numbers = itertools.count(len(cases))
  for name in wanted:
    if name != 'captions':
      for sample, problem, task in _problems(config, name, wanted[name], prompts, seed, given,
                                             language):
        cases += [_dialogue(name, sample, problem, seed, next(numbers))
                  if converses and task == 'dialogue' else
                  _case(config, name, sample, problem, task, seed, numbers) for _ in range(images)]
  return cases


def _wanted(config: ConfigDict, names: str) -> dict[str, list[ConfigDict]]:
  """Name of each task -> the sources of the run that draw it, those with settings of their own."""
  drawn: dict[str, list[ConfigDict]] = {}
  for spec in config.data.sources.values():
    if spec.kind == 'shapes':
      for name in task_names(spec.path, '--tasks') if spec.path else ('captions',):
        others = drawn.setdefault(name, [])
        if all(other.fields != spec.fields for other in others):
          others.append(spec)
  if not names:
    return drawn or {'captions': []}
  known = ['captions'] if 'captions' in names.split(',') else []
  rest = ','.join(name for name in names.split(',') if name != 'captions')
  known += task_names(rest, '--tasks') if rest else ()
  return {name: drawn.get(name, []) for name in known}


def _problems(config: ConfigDict, name: str, specs: Sequence[ConfigDict | None], prompts: int,
              seed: int, given: str, language: str) -> Iterator[tuple[Sample, Problem, str]]:
  """Held-out problems of a drawn task, of its sources in turn: sample, problem, wording task."""
  specs = specs or [None]
  sources = [DrawnSource(name, _settings(config, spec, given, language), 'test', seed)
             for spec in specs]
  for index in range(prompts):
    turn, spec = index // len(specs), specs[index % len(specs)]
    problem, sample = sources[index % len(specs)].drawn(turn)
    sample = _given_as(sample, given) if given else sample
    task = spec.task if spec and spec.task in TASKS and not given else tasks.kind_of(sample)
    yield sample, problem, task


def _settings(config: ConfigDict, spec: ConfigDict | None, given: str, language: str) -> Settings:
  """The settings of a task: those of its source, if it has one, with the changes of a flag."""
  fields = dict(spec.fields) if spec else {}
  if given:
    fields['count'] = '1'
  if language:
    fields['languages'] = language
  return parse_settings(fields, config.data.image_size, '--language' if language else '--tasks')


def _given_as(sample: Sample, role: str) -> Sample:
  """The sample with that role for every given image."""
  return dataclasses.replace(sample, parts=tuple(
      dataclasses.replace(part, role=role) if part.is_image and not part.is_target else part
      for part in sample.parts))


def _dialogue(name: str, sample: Sample, problem: Problem, seed: int, number: int) -> Case:
  """A dialogue that is answered from the user's part of it alone."""
  asked, due = [], []
  for part in sample.parts:
    (due if part.role in ('assistant', 'target') else asked).append(part)
  answer = [part.image if part.is_image else part.text for part in due]
  size = images_of(answer)[0].shape[:2]
  state = Dialogue.of(dataclasses.replace(sample, parts=tuple(asked)), seed=seed, number=number,
                      size=size)
  text = ' / '.join(part.text for part in asked if not part.is_image)
  return Case(name, text, (), lambda found: mark_answer(found, problem),
              [part.image for part in asked if part.is_image], answer, state)


def _case(config: ConfigDict, name: str, sample: Sample, problem: Problem, task: str, seed: int,
          numbers: Iterator[int]) -> Case:
  targets = [part.image for part in sample.parts if part.role == 'target']
  if task == 'dialogue':  # each image after the true ones before it
    turns = [(turn + 0.5) / len(targets) for turn in range(len(targets))]
    wanted = [as_request(tasks.worded(sample, task, config.data, turn)) for turn in turns]
  else:
    wanted = [tasks.worded(as_request(sample), task, config.data)]
  asked = [request_of(config, item, seed=seed, number=next(numbers)) for item in wanted]
  given = [part.image for part in sample.parts if part.image is not None and part.role != 'target']
  text = ' / '.join(part.text for part in problem.parts if not isinstance(part, Picture))
  return Case(name, text, asked, _mark_problem(problem, targets[0].shape[:2]), given, targets)


def _mark_caption(request: geneval.Request):
  return lambda images: [dict(correct=captions.score(image, request)) for image in images]


def _mark_problem(problem: Problem, size: tuple[int, int]):
  def marks(images: Images) -> list[Mapping[str, object]]:
    for image in images:
      if image.shape[:2] != size:
        raise user_error('--tasks', image.shape[:2], f'the run draws images of another size than '
                         f'the problems, {size}; give its source the field sizes')
    return list(map(dataclasses.asdict, mark_series(images, problem.targets)))

  return marks
