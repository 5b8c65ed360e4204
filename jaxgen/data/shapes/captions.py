"""Text to image: whole scenes in words, and captions that leave most of a scene open."""

import random

from jaxgen.data.shapes import geneval
from jaxgen.data.shapes.drawing import COLORS
from jaxgen.data.shapes.drawing import SHAPES
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Setting
from jaxgen.data.shapes.problems import Words
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import only


def scene(setting: Setting) -> Problem:
  """A scene of which everything is said: objects, places and ground."""
  palette, speaker = setting.palette, setting.speaker
  found = palette.scene(setting.rng.randint(1, min(3, palette.cells)), patterned=0)
  text = speaker.listed([speaker.say('placed', who=speaker.a(found.items[cell]),
                                     place=speaker.place(cell)) for cell in found.filled])
  text = speaker.say('on', what=text, color=speaker.word(found.ground))
  return Problem((Words('user', text), Picture('target', found)),
                 (*(found.items[cell].key for cell in found.filled),
                  f'scene {found.filled} {found.ground} {setting.wording}'))


def partial(setting: Setting) -> Problem:
  """A caption of GenEval's kinds for a scene that holds much more than it says (L107).

  Colours that the caption does not name, the ground, and further objects with patterns are drawn at
  random: what they look like can be learned from images only.
  """
  palette, rng = setting.palette, setting.rng
  pools = geneval.requests(palette.split)
  task, = rng.choices(geneval.TASKS, tuple(geneval.TASK_WEIGHTS.values()))
  request = rng.choice(pools[task])
  wanted = [_wished(shape, color, rng) for shape, color in request.wanted]
  cells = _cells(request, len(wanted), setting)
  placed = dict(zip(cells, wanted))
  free = [cell for cell in range(palette.cells) if cell not in placed]
  others = [shape for shape in SHAPES if shape not in {item.shape for item in wanted}]
  for cell in free:
    if others and rng.random() < 0.6:
      shape = rng.choice(others)
      item = palette.item('patterned')
      placed[cell] = Item(shape, item.colors, item.pattern)
  shown = only(placed, palette.grid, palette.ground())
  return Problem((Words('user', request.caption), Picture('target', shown, request=request)),
                 keys=())


def _wished(shape: str, color: str | None, rng: random.Random) -> Item:
  return Item(shape, (color or rng.choice(tuple(COLORS)),))


def _cells(request: geneval.Request, count: int, setting: Setting) -> list[int]:
  """Cells of the wanted objects, the first in the asked direction from the second."""
  palette = setting.palette
  while True:
    cells = setting.rng.sample(range(palette.cells), count)
    if request.relation is None or tuple(cells) in geneval.related_cells(palette.grid,
                                                                         request.relation):
      return cells
