"""Text to image: drawn compositional scenes with captions in the manner of GenEval's six tasks.

A scene is a few plain shapes on a grey ground, black unless the caption names a colour. Scene
``i`` of a seed is always the same, there is no end to them, and nothing is read from disk or
network, so that the whole stack can be trained and scored anywhere.
``jaxgen.evaluation.shapes.captions`` reads images back.
"""

import dataclasses
import functools
import itertools
import random
import zlib
from collections.abc import Iterator

import numpy as np

from jaxgen.data.shapes.drawing import BACKGROUND
from jaxgen.data.shapes.drawing import COLORS
from jaxgen.data.shapes.drawing import coverage
from jaxgen.data.shapes.drawing import SHAPES

PLAIN = 'black'  # of objects whose colour the caption leaves open
# Each task and how often it is drawn relative to the others: more captions need more scenes.
TASK_WEIGHTS = {'single_object': 1, 'two_object': 2, 'counting': 2, 'colors': 2, 'position': 4,
                'color_attribution': 5}
TASKS = tuple(TASK_WEIGHTS)
NUMBERS = {2: 'two', 3: 'three', 4: 'four'}
CELLS = 2  # objects stand in cells of a CELLS x CELLS grid, so that they never touch
RADIUS = 0.21  # of every object, in units of the image side
# A relation is the direction in which the first object lies from the second: (x, y), y down.
RELATIONS = {'left of': (-1, 0), 'right of': (1, 0), 'above': (0, -1), 'below': (0, 1)}
OPPOSITE = {'left of': 'right of', 'right of': 'left of', 'above': 'below', 'below': 'above'}
# Of the tasks with many captions one in six is held out of training, for the test split.
HELD_OUT_TASKS = ('position', 'color_attribution')
HELD_OUT_ONE_IN, HELD_OUT_REST = 6, 3  # this remainder takes some of every relation


@dataclasses.dataclass(frozen=True)
class Object:
  """One drawn shape: centre and radius in units of the image side."""

  shape: str
  color: str
  x: float
  y: float
  radius: float


@dataclasses.dataclass(frozen=True)
class Request:
  """What a caption asks for; ``color`` is None where the caption names none."""

  task: str
  wanted: tuple[tuple[str, str | None], ...]
  relation: str | None = None

  @property
  def caption(self) -> str:
    """The request in words."""
    if self.task == 'counting':
      return f'a photo of {NUMBERS[len(self.wanted)]} {_plural(self.wanted[0][0])}'
    names = [_article(f'{color} {shape}' if color else shape) for shape, color in self.wanted]
    return 'a photo of ' + (f' {self.relation} ' if self.relation else ' and ').join(names)

  @property
  def mirrored(self) -> 'Request':
    """The same wish with the objects named in the other order."""
    return Request(self.task, self.wanted[::-1], self.relation and OPPOSITE[self.relation])

  @property
  def held_out(self) -> bool:
    """True for the captions that training never shows, in either order of the objects."""
    either = min(self.caption, self.mirrored.caption)
    return (self.task in HELD_OUT_TASKS
            and zlib.crc32(either.encode()) % HELD_OUT_ONE_IN == HELD_OUT_REST)


@dataclasses.dataclass(frozen=True)
class Scene:
  """A request and the objects that answer it."""

  request: Request
  objects: tuple[Object, ...]

  @property
  def task(self) -> str:
    return self.request.task

  @property
  def caption(self) -> str:
    return self.request.caption


class ShapesSource:
  """Endless random access to scenes: ``source[i]`` is the same record at every call.

  Args:
    split: ``train`` leaves the held-out captions out; ``test`` draws only from the requests of
      ``requests('test')``.
    size: image side in pixels.
    seed: another seed gives other scenes.
  """

  def __init__(self, split: str = 'train', size: int = 32, seed: int = 0):
    self.split, self.size, self.seed = split, size, seed
    self._requests = requests(split)

  def __len__(self) -> int:
    return 2**40

  def scene(self, index: int) -> Scene:
    """Scene number ``index``; the six tasks take turns at random, by ``TASK_WEIGHTS``."""
    rng = random.Random(f'{self.seed}/{self.split}/{index}')
    task, = rng.choices(TASKS, tuple(TASK_WEIGHTS.values()))
    return arrange(rng.choice(self._requests[task]), rng)

  def __getitem__(self, index: int) -> dict[str, object]:
    """``{'id': str, 'image': uint8[size, size, 3], 'caption': str}``."""
    scene = self.scene(index)
    return {'id': f'shapes/{self.split}/{self.seed}/{index}',
            'image': draw(scene.objects, self.size), 'caption': scene.caption}


@functools.cache
def requests(split: str) -> dict[str, list[Request]]:
  """All requests of a split, by task.

  ``test`` holds the held-out captions of the tasks that have any and all captions of the others.
  """
  pools: dict[str, list[Request]] = {task: [] for task in TASKS}
  for request in _all_requests():
    pools[request.task].append(request)
  for task in HELD_OUT_TASKS:
    pools[task] = [request for request in pools[task] if request.held_out == (split == 'test')]
  return pools


def evaluation_prompts(per_task: int, seed: int = 0) -> list[Scene]:
  """``per_task`` scenes of the test split for each task, without repeats while they last."""
  rng = random.Random(seed)
  scenes = []
  for pool in requests('test').values():
    rounds = (rng.sample(pool, len(pool)) for _ in itertools.count())
    order = itertools.chain.from_iterable(rounds)
    scenes += [arrange(request, rng) for request in itertools.islice(order, per_task)]
  return scenes


def captions() -> list[str]:
  """Every caption of both splits once: the text that a tokenizer is trained on."""
  return sorted({request.caption for request in _all_requests()})


def arrange(request: Request, rng: random.Random) -> Scene:
  """Puts objects that answer the request into cells of their own, in the asked relation."""
  names = [(shape, color or PLAIN) for shape, color in request.wanted]
  while True:
    cells = rng.sample(range(CELLS**2), len(names))
    placed = [Object(*name, (cell % CELLS + 0.5) / CELLS, (cell // CELLS + 0.5) / CELLS, RADIUS)
              for name, cell in zip(names, cells)]
    if _related(placed, request.relation):
      return Scene(request, tuple(placed))


@functools.cache
def related_cells(grid: tuple[int, int], relation: str) -> tuple[tuple[int, int], ...]:
  """All pairs of cells in one row or column of which the first lies so from the second.

  Args:
    grid: rows and columns; cells are numbered row by row.
    relation: a key of ``RELATIONS``.
  """
  right, down = RELATIONS[relation]
  found = []
  for first, second in itertools.permutations(range(grid[0] * grid[1]), 2):
    y, x = (one - other for one, other in zip(divmod(first, grid[1]), divmod(second, grid[1])))
    if x * right + y * down > 0 and x * down == 0 and y * right == 0:
      found.append((first, second))
  return tuple(found)


def draw(objects: tuple[Object, ...], size: int) -> np.ndarray:
  """Draws objects with smooth edges; uint8[size, size, 3]."""
  image = np.empty((size, size, 3), np.float32)
  image[:] = BACKGROUND
  pixels = np.arange(size, dtype=np.float32) + 0.5
  for item in objects:
    dx = (pixels - item.x * size)[None, :]
    dy = (pixels - item.y * size)[:, None]
    cover = coverage(item.shape, dx, dy, item.radius * size)[..., None]
    image += cover * (np.asarray(COLORS[item.color], np.float32) - image)
  return np.round(image).astype(np.uint8)


def _related(placed: list[Object], relation: str | None) -> bool:
  """True if the first object lies clearly in the asked direction from the second."""
  if relation is None:
    return True
  dx, dy = placed[0].x - placed[1].x, placed[0].y - placed[1].y
  right, down = RELATIONS[relation]
  along, across = dx * right + dy * down, abs(dx * down) + abs(dy * right)
  return along > 0.25 and along > 1.2 * across


def _all_requests() -> Iterator[Request]:
  pairs = list(itertools.permutations(SHAPES, 2))
  for shape in SHAPES:
    yield Request('single_object', ((shape, None),))
    for color in COLORS:
      yield Request('colors', ((shape, color),))
    for count in NUMBERS:
      yield Request('counting', ((shape, None),) * count)
  for first, second in pairs:
    yield Request('two_object', ((first, None), (second, None)))
    for relation in RELATIONS:
      yield Request('position', ((first, None), (second, None)), relation)
    for color, other in itertools.permutations(COLORS, 2):
      yield Request('color_attribution', ((first, color), (second, other)))


def _article(noun: str) -> str:
  return f'an {noun}' if noun[0] in 'aeiou' else f'a {noun}'


def _plural(noun: str) -> str:
  return f'{noun}es' if noun.endswith('s') else f'{noun}s'
