"""Problems: what a drawn task asks for, as words and pictures in order, and what answers it."""

import dataclasses
import random
from collections.abc import Callable

from jaxgen.data.shapes.geneval import Request
from jaxgen.data.shapes.phrases import Speaker
from jaxgen.data.shapes.phrases import WORDINGS
from jaxgen.data.shapes.scenes import Grid
from jaxgen.data.shapes.scenes import held_out
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import Palette
from jaxgen.data.shapes.scenes import Scene


@dataclasses.dataclass(frozen=True)
class Words:
  """A text; ``role`` as of ``sample.Part``."""

  role: str
  text: str


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image.

  Attributes:
    role: as of ``sample.Part``; ``target`` is to be drawn.
    scene: what it shows.
    also: other scenes that answer the words as well.
    request: where the words leave more open than scenes can list: what must be seen.
    before: the scene that this one changes: cells that are alike in both must stay.
    identity: items that only other images of the problem describe.
  """

  role: str
  scene: Scene
  also: tuple[Scene, ...] = ()
  request: Request | None = None
  before: Scene | None = None
  identity: tuple[Item, ...] = ()


@dataclasses.dataclass(frozen=True)
class Problem:
  """A record before it is drawn.

  Attributes:
    parts: words and pictures in reading order.
    keys: the combinations that it is made of; one that is held out makes it a problem of tests.
      Empty where the task divides its problems by itself.
  """

  parts: tuple[Words | Picture, ...]
  keys: tuple[str, ...]

  @property
  def held_out(self) -> bool:
    return any(map(held_out, self.keys))

  @property
  def targets(self) -> list[Picture]:
    """The pictures to be drawn."""
    return [part for part in self.parts if isinstance(part, Picture) and part.role == 'target']


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the user of a task may choose.

  Attributes:
    sizes: (height, width) of images in pixels; one is drawn for each problem.
    grids: rows and columns, drawn likewise; a cell takes 8 pixels or more.
    languages: of the texts, drawn likewise.
    count: least and most references, outputs, turns or panels, where a task has such.
  """

  sizes: tuple[tuple[int, int], ...]
  grids: tuple[Grid, ...] = ((2, 2),)
  languages: tuple[str, ...] = ('en',)
  count: tuple[int, int] = (1, 4)


@dataclasses.dataclass(frozen=True)
class Setting:
  """What one problem is made with.

  Attributes:
    palette: of its random choices.
    speaker: of its words.
    count: least and most; see ``Settings``.
  """

  palette: Palette
  speaker: Speaker
  count: tuple[int, int]

  @property
  def rng(self) -> random.Random:
    return self.palette.rng

  @property
  def wording(self) -> str:
    """The key of the wording, for combinations with it."""
    return f'wording {self.speaker.wording}'

  def number(self, least: int, most: int) -> int:
    """How many, within what the task and the user allow."""
    low, high = max(least, self.count[0]), min(most, self.count[1])
    return self.rng.randint(min(low, high), high) if high >= least else least


Make = Callable[[Setting], Problem]


def make_problem(make: Make, settings: Settings, split: str, rng: random.Random) -> Problem:
  """A problem of the split: of training without any combination that is held out, of a test with.

  Args:
    make: a task.
    settings: of the user.
    split: ``train`` or ``test``.
    rng: of all choices.
  """
  while True:
    language = rng.choice(settings.languages)
    grid = rng.choice(settings.grids)
    setting = Setting(Palette(rng, split, grid), Speaker(language, rng.randrange(WORDINGS), grid),
                      settings.count)
    problem = make(setting)
    if not problem.keys or problem.held_out == (split == 'test'):
      return problem
