"""Drawn problems as a source of samples, and the texts that a tokenizer for them must know."""

import random
import re
from collections.abc import Mapping

from jaxgen.core.errors import user_error
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.shapes import captions
from jaxgen.data.shapes import edits
from jaxgen.data.shapes import geneval
from jaxgen.data.shapes import references
from jaxgen.data.shapes import stories
from jaxgen.data.shapes.phrases import LANGUAGES
from jaxgen.data.shapes.problems import Make
from jaxgen.data.shapes.problems import make_problem
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.scenes import draw_scene

# Name of a task -> how one of its problems is made.
DRAWN: dict[str, Make] = {
    'scene': captions.scene,
    'partial': captions.partial,
    'edit': edits.edit,
    'transition': edits.transition,
    'multi_turn': edits.multi_turn,
    'transformation': references.transformation,
    'reconstruction': references.reconstruction,
    'reference': references.reference,
    'control': references.control,
    'style': references.style,
    'views': stories.views,
    'storyboard': stories.storyboard,
    'guide': stories.guide,
    'session': stories.session,
}
LEAST_CELL = 8  # pixels; smaller objects cannot be told apart
_FIELDS = ('sizes', 'grids', 'languages', 'count')
_TEXTS = 1500  # problems of each task whose texts a tokenizer reads


class DrawnSource:
  """Endless random access to the problems of one task: ``source[i]`` never changes.

  Args:
    task: a key of ``DRAWN``.
    settings: sizes, grids, languages, counts.
    split: ``train`` leaves the held-out combinations out; any other has them alone.
    seed: another seed gives other problems.
  """

  def __init__(self, task: str, settings: Settings, split: str = 'train', seed: int = 0):
    self.task, self.settings, self.seed = task, settings, seed
    self.split = 'train' if split == 'train' else 'test'

  def __len__(self) -> int:
    return 2**40

  def problem(self, index: int) -> tuple[Problem, tuple[int, int]]:
    """Problem ``index`` and the (height, width) of its images."""
    rng = random.Random(f'{self.task}/{self.seed}/{self.split}/{index}')
    size = rng.choice(self.settings.sizes)
    return make_problem(DRAWN[self.task], self.settings, self.split, rng), size

  def drawn(self, index: int) -> tuple[Problem, Sample]:
    """Problem ``index``, and its sample."""
    problem, size = self.problem(index)
    name = f'shapes/{self.task}/{self.split}/{self.seed}/{index}'
    return problem, Sample(name, tuple(_part(part, size) for part in problem.parts), origin=name)

  def __getitem__(self, index: int) -> Sample:
    return self.drawn(index)[1]


def parse_settings(fields: Mapping[str, str | tuple[str, ...]], size: int, where: str) -> Settings:
  """Settings from the ``fields`` of a source.

  Args:
    fields: ``sizes`` ('32' or '32x48', several with commas: height x width), ``grids`` ('2x2,3x3'),
      ``languages`` ('en', 'zh', 'en,zh'), ``count`` ('1-3').
    size: side of square images where ``sizes`` is absent, in pixels.
    where: field or flag, for errors.

  Raises:
    UserError: an unknown field, a value that cannot be read, or cells too small to be seen.
  """
  for name in fields:
    if name not in _FIELDS:
      raise user_error(where, name, f'drawn tasks have the fields {", ".join(_FIELDS)}')
  fields = {name: value if isinstance(value, str) else ','.join(value)
            for name, value in fields.items()}
  sizes = _pairs(fields.get('sizes', str(size)), 'sizes', where)
  grids = _pairs(fields.get('grids', '2x2'), 'grids', where)
  languages = tuple(fields.get('languages', 'en').split(','))
  for language in languages:
    if language not in LANGUAGES:
      raise user_error(f'{where}: languages', language, f'use {" or ".join(LANGUAGES)}')
  count = re.fullmatch(r'(\d+)(?:-(\d+))?', fields.get('count', '1-4'))
  if not count or not 1 <= int(count[1]) <= int(count[2] or count[1]):
    raise user_error(f'{where}: count', fields['count'], 'write a number, or least-most as 1-3')
  for height, width in sizes:
    for rows, columns in grids:
      if not (2 <= min(rows, columns) <= max(rows, columns) <= 4
              and min(height // rows, width // columns) >= LEAST_CELL):
        raise user_error(f'{where}: grids', f'{rows}x{columns}', f'grids have 2 to 4 rows and '
                         f'columns, of {LEAST_CELL} pixels or more each; the image has '
                         f'{height}x{width}')
  return Settings(sizes, grids, languages, (int(count[1]), int(count[2] or count[1])))


def task_names(path: str, where: str) -> tuple[str, ...]:
  """The tasks that a path names, with commas; ``all`` are all of them.

  Raises:
    UserError: an unknown one.
  """
  names = tuple(DRAWN) if path == 'all' else tuple(path.split(','))
  for name in names:
    if name not in DRAWN:
      raise user_error(where, name, f'drawn tasks are {", ".join(DRAWN)}; leave it empty for '
                       "captions in the manner of GenEval's")
  return names


def texts(path: str, settings: Settings, where: str) -> list[str]:
  """What a tokenizer for some tasks is trained on, common texts as often as they come.

  Args:
    path: names of tasks, '' for the captions alone, ``all`` for everything.
    settings: their languages and grids matter.
    where: field or flag, for errors.
  """
  found = geneval.captions() if path in ('', 'all') else []
  for name in task_names(path, where) if path else ():
    source = DrawnSource(name, settings)
    for index in range(_TEXTS):
      problem, _ = source.problem(index)
      found += [part.text for part in problem.parts if not isinstance(part, Picture)]
  return sorted(found)


def _part(part, size: tuple[int, int]) -> Part:
  if isinstance(part, Picture):
    return Part(part.role, image=draw_scene(part.scene, size), loss=part.role == 'target')
  return Part(part.role, text=part.text, loss=part.role == 'assistant')


def _pairs(text: str, name: str, where: str) -> tuple[tuple[int, int], ...]:
  found = []
  for word in text.split(','):
    match = re.fullmatch(r'(\d+)(?:x(\d+))?', word.strip())
    if not match:
      raise user_error(f'{where}: {name}', word, 'write numbers as 32 or 32x48, with commas')
    found.append((int(match[1]), int(match[2] or match[1])))
  return tuple(found)
