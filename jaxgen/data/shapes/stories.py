"""Series of pictures: views of a scene, storyboards and step-by-step dialogues."""

import dataclasses

from jaxgen.data.shapes import edits
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Setting
from jaxgen.data.shapes.problems import Words
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import Scene
from jaxgen.data.shapes.scenes import only
from jaxgen.data.wordings import worded

WAYS = {'pan': ('left', 'right', 'up', 'down'), 'turn': ('left', 'right')}


def views(setting: Setting) -> Problem:
  """A scene from one to four further viewpoints, each told from the one before it (L018).

  The world is a torus: what a pan leaves on one side comes back on the other. A turn keeps objects
  upright. A zoom shows one cell alone and comes last.
  """
  rng, speaker = setting.rng, setting.speaker
  scene = first = setting.palette.scene(rng.randint(1, setting.palette.cells))
  seen, said, kinds = [], [], []
  count = setting.number(1, 4)
  for number in range(count):
    square = scene.grid[0] == scene.grid[1]
    kind = rng.choice(('pan', *(('turn',) if square else ()),
                       *(('zoom',) if number == count - 1 else ())))
    if kind == 'zoom':
      cell = setting.palette.cell(scene.filled)
      scene = Scene((1, 1), (scene.items[cell],), scene.ground)
      said.append(speaker.say('zoom', place=speaker.place(cell)))
      kinds.append(f'zoom {cell}')
    else:
      way = rng.choice(WAYS[kind])
      scene = panned(scene, way) if kind == 'pan' else turned(scene, way)
      said.append(speaker.say(kind, way=speaker.way(way)))
      kinds.append(f'{kind} {way}')
    seen.append(scene)
  text = worded('multiview', speaker.numbered(said), outputs=count)
  return Problem((Picture('source', first), Words('user', text),
                  *(Picture('target', view, identity=_patterned(view)) for view in seen)),
                 (f'views {count} {kinds[0]} {kinds[-1]} {setting.wording}',))


def panned(scene: Scene, way: str) -> Scene:
  """The camera one cell further: everything moves the other way."""
  rows, columns = scene.grid
  down, right = {'left': (0, -1), 'right': (0, 1), 'up': (-1, 0), 'down': (1, 0)}[way]
  items = tuple(scene.items[(row + down) % rows * columns + (column + right) % columns]
                for row in range(rows) for column in range(columns))
  return dataclasses.replace(scene, items=items)


def turned(scene: Scene, way: str) -> Scene:
  """The camera by a quarter: to the right, what was at the top comes to the left."""
  side = scene.grid[0]
  last = side - 1
  items = tuple(
      scene.items[column * side + last - row] if way == 'right' else
      scene.items[(last - column) * side + row]
      for row in range(side) for column in range(side))
  return dataclasses.replace(scene, items=items)


def storyboard(setting: Setting) -> Problem:
  """One or two characters, given by a picture each, in two to four panels (L019).

  All pictures have one ground; a character that is alone may have an object beside it.
  """
  palette, rng = setting.palette, setting.rng
  characters = palette.characters(rng.randint(1, 2))
  given = [palette.alone(item) for item in characters]
  empty = only({}, palette.grid, given[0].ground)
  panels, said = [], []
  for _ in range(setting.number(2, 4)):
    panel, words, who = _panel(setting, empty, characters)
    panels.append(Picture('target', panel, identity=who))
    said.append(words)
  text = worded('storyboard', setting.speaker.numbered(said), outputs=len(panels), style='story')
  return Problem((*(Picture('reference', dataclasses.replace(scene, ground=empty.ground))
                    for scene in given), Words('user', text), *panels),
                 (*(item.key for item in characters), f'panels {len(panels)} of '
                  f'{len(characters)} {setting.wording}'))


def _panel(setting: Setting, empty: Scene, characters: list[Item]
           ) -> tuple[Scene, str, tuple[Item, ...]]:
  """One panel, what is said of it, and the characters in it."""
  rng, speaker = setting.rng, setting.speaker
  who = [number for number in range(len(characters)) if rng.random() < 0.8] or [0]
  shown = [(speaker.say('figure', number=number + 1), characters[number]) for number in who]
  if len(who) == 1 and rng.random() < 0.5:
    prop = setting.palette.item('plain')
    shown.append((speaker.name(prop), prop))
  cells = rng.sample(range(len(empty.items)), len(shown))
  words = [speaker.say('stands', who=name, place=speaker.place(cell))
           for (name, _), cell in zip(shown, cells)]
  placed = {cell: item for (_, item), cell in zip(shown, cells)}
  return empty.placed(placed), speaker.listed(words), tuple(characters[number] for number in who)


def guide(setting: Setting) -> Problem:
  """From a text, step by step: the assistant says and shows how each object is added (L110)."""
  palette = setting.palette
  empty = only({}, palette.grid, palette.ground())
  count = setting.number(2, min(4, palette.cells))
  scene, steps = empty, []
  for _ in range(count):
    steps.append(edits.change(setting, scene, ('add',)))
    scene = steps[-1].scene
  wanted = setting.speaker.listed([setting.speaker.say('placed', who=step.words['a'],
                                                       place=step.words['place'])
                                   for step in steps])
  request = setting.speaker.say('on', what=wanted, color=setting.speaker.word(empty.ground))
  asked = setting.speaker.say('draw steps', list=request)
  return _dialogue(setting, (Words('user', asked),), empty, steps, 'guide')


def session(setting: Setting) -> Problem:
  """From the user's image, step by step: the assistant says and shows each of two to four edits."""
  scene = edits.start(setting)
  steps = edits.changes(setting, scene, setting.number(2, 4))
  asked = setting.speaker.say('edit steps', list=setting.speaker.listed(
      [step.said(setting) for step in steps]))
  return _dialogue(setting, (Picture('source', scene), Words('user', asked)), scene, steps,
                   'session')


def _dialogue(setting: Setting, asked: tuple[Words | Picture, ...], scene: Scene,
              steps: list[edits.Change], name: str) -> Problem:
  """One sentence and one image for each step, and a closing sentence."""
  speaker = setting.speaker
  answers: list[Words | Picture] = []
  shown = edits.targets(scene, steps)
  for number, (step, picture) in enumerate(zip(steps, shown, strict=True), start=1):
    what = step.said(setting)
    answers += [Words('assistant', speaker.say('step', number=number, what=what)), picture]
  closing = Words('assistant', speaker.say('done', number=len(steps)))
  return Problem((*asked, *answers, closing),
                 (*(key for step in steps for key in step.keys(setting)),
                  f'{name} {len(steps)} {steps[0].what}'))


def _patterned(scene: Scene) -> tuple[Item, ...]:
  return tuple(item for item in scene.items if item and len(item.colors) > 1)
