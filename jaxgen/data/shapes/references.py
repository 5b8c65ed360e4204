"""New pictures of what given pictures show: references, control maps, styles, transformations."""

import dataclasses

from jaxgen.data.shapes.drawing import STYLES
from jaxgen.data.shapes.geneval import RELATIONS
from jaxgen.data.shapes.geneval import related_cells
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Setting
from jaxgen.data.shapes.problems import Words
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import Scene
from jaxgen.data.shapes.scenes import only
from jaxgen.data.wordings import worded


def transformation(setting: Setting) -> Problem:
  """One reference, drawn anew in another place and on another ground (L060)."""
  palette, speaker = setting.palette, setting.speaker
  item, = palette.characters(1)
  seen = palette.alone(item)
  cell, ground = palette.cell(seen.free), palette.ground(but=seen.ground)
  text = speaker.say('transform', place=speaker.place(cell), color=speaker.word(ground))
  return Problem((Picture('reference', seen), Words('user', text),
                  Picture('target', only({cell: item}, palette.grid, ground), identity=(item,))),
                 (item.key, f'transform {item.shape} {cell} {ground} {setting.wording}'))


def reconstruction(setting: Setting) -> Problem:
  """A source to the same image (L060)."""
  scene = setting.palette.scene(setting.rng.randint(1, setting.palette.cells))
  text = setting.speaker.say('same')
  return Problem((Picture('source', scene), Words('user', text), Picture('target', scene)),
                 tuple(item.key for item in scene.items if item))


def reference(setting: Setting) -> Problem:
  """One to three references: put at places, or one in a relation to the other (L014)."""
  palette, speaker = setting.palette, setting.speaker
  count = setting.number(1, 3)
  items = palette.characters(count)
  names = [speaker.say('reference', number=number) for number in range(1, count + 1)]
  ground = palette.ground()
  if count == 2 and setting.rng.random() < 0.5:
    relation = setting.rng.choice(tuple(RELATIONS))
    text, combination = speaker.relation(names[0], relation, names[1]), relation
    answers = [only(dict(zip(cells, items)), palette.grid, ground)
               for cells in related_cells(palette.grid, relation)]
    setting.rng.shuffle(answers)
  else:
    cells = setting.rng.sample(range(palette.cells), count)
    text = speaker.listed([speaker.say('placed', who=name, place=speaker.place(cell))
                           for name, cell in zip(names, cells)])
    answers, combination = [only(dict(zip(cells, items)), palette.grid, ground)], str(cells)
  text = speaker.say('on', what=text, color=speaker.word(ground))
  target = Picture('target', answers[0], tuple(answers[1:]), identity=tuple(items))
  return Problem((*(Picture('reference', palette.alone(item)) for item in items),
                  Words('user', worded('cref', text, outputs=1)), target),
                 (*(item.key for item in items),
                  f'references {count} {combination} {ground} {setting.wording}'))


def control(setting: Setting) -> Problem:
  """A map of outlines, and a reference for each object in it (L015)."""
  palette = setting.palette
  items = palette.characters(setting.number(1, 3))
  cells = setting.rng.sample(range(palette.cells), len(items))
  target = only(dict(zip(cells, items)), palette.grid, 'grey')
  outlines = {cell: Item(item.shape, ('white',)) for cell, item in zip(cells, items)}
  drawn = dataclasses.replace(only(outlines, palette.grid, 'grey'), style='outline')
  text = worded('conditioned_cref', '', outputs=1, signal='outline')
  return Problem((Picture('reference', drawn),
                  *(Picture('reference', dataclasses.replace(palette.alone(item), ground='grey'))
                    for item in items),
                  Words('user', text), Picture('target', target, identity=tuple(items))),
                 (*(item.key for item in items), f'control {sorted(cells)} {len(items)}'))


def style(setting: Setting) -> Problem:
  """The content of the first image in the style of the second (L016)."""
  palette = setting.palette
  # On grey an inverted black and a white object look alike.
  content, example = (_off_grey(setting, palette.scene(
      setting.rng.randint(1, palette.cells), patterned=0, small=0)) for _ in range(2))
  name = setting.rng.choice(STYLES[1:])
  drawn = dataclasses.replace(content, style=name)
  shapes = ' '.join(sorted(item.shape for item in content.items if item))
  return Problem((Picture('source', content),
                  Picture('reference', dataclasses.replace(example, style=name)),
                  Words('user', worded('sref', '', outputs=1)), Picture('target', drawn)),
                 (f'style {name} {shapes} {content.ground}',))


def _off_grey(setting: Setting, scene: Scene) -> Scene:
  ground = setting.palette.ground(but='grey')
  return dataclasses.replace(scene, ground=ground)
