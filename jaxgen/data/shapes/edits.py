"""Changes of one scene into another: single edits, and series of them."""

import dataclasses
from collections.abc import Callable

from jaxgen.data.shapes.drawing import COLORS
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Setting
from jaxgen.data.shapes.problems import Words
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import Scene
from jaxgen.data.wordings import worded


@dataclasses.dataclass(frozen=True)
class Change:
  """One edit.

  Attributes:
    kind: a key of ``CHANGES``.
    scene: what comes of it.
    words: what its phrase takes.
    what: name of the thing that it is done to, for combinations.
    new: an item that was not there before.
  """

  kind: str
  scene: Scene
  words: dict[str, str]
  what: str
  new: Item | None = None

  def said(self, setting: Setting, suffix: str = '') -> str:
    """In words; ``suffix`` chooses another phrase for it."""
    return setting.speaker.say(self.kind + suffix, **self.words)

  def keys(self, setting: Setting) -> tuple[str, ...]:
    """The combination of edit, object and wording, and what is new."""
    return (f'{self.kind} {self.what} {setting.wording}',
            *((self.new.key,) if self.new else ()))


def change(setting: Setting, scene: Scene, kinds: tuple[str, ...] = ()) -> Change:
  """A random edit that can be done to the scene."""
  kinds = tuple(kind for kind in kinds or tuple(CHANGES) if _possible(kind, scene))
  return CHANGES[setting.rng.choice(kinds)](setting, scene)


def edit(setting: Setting) -> Problem:
  """A source and one instruction to a target."""
  return _one_change(setting, '')


def transition(setting: Setting) -> Problem:
  """Two frames, the caption of what happens between them (iMontage's video pairs)."""
  return _one_change(setting, ' happens')


def multi_turn(setting: Setting) -> Problem:
  """A source and two to four instructions; the image after each of them (L017)."""
  first = start(setting)
  steps = changes(setting, first, setting.number(2, 4))
  text = setting.speaker.numbered([step.said(setting) for step in steps])
  words = worded('image_editing', text, outputs=len(steps))
  return Problem((Picture('source', first), Words('user', words), *targets(first, steps)),
                 (*(key for step in steps for key in step.keys(setting)),
                  f'turns {len(steps)} {steps[0].kind} {steps[-1].kind}'))


def start(setting: Setting) -> Scene:
  """A scene with room for changes: two items or more, and a free cell."""
  return setting.palette.scene(setting.rng.randint(2, setting.palette.cells - 1))


def changes(setting: Setting, scene: Scene, count: int) -> list[Change]:
  """Several edits, one after the other, no two of them alike."""
  found: list[Change] = []
  while len(found) < count:
    step = change(setting, scene)
    if step.scene not in [other.scene for other in found]:
      found.append(step)
      scene = step.scene
  return found


def targets(scene: Scene, steps: list[Change]) -> list[Picture]:
  """The pictures after each of the edits."""
  before = [scene, *(step.scene for step in steps)]
  return [Picture('target', step.scene, before=last) for last, step in zip(before, steps)]


def _one_change(setting: Setting, suffix: str) -> Problem:
  scene = start(setting)
  step = change(setting, scene)
  return Problem((Picture('source', scene), Words('user', step.said(setting, suffix)),
                  *targets(scene, [step])), step.keys(setting))


def _possible(kind: str, scene: Scene) -> bool:
  needs = {'add': len(scene.free) > 0, 'move': len(scene.free) > 0 and len(scene.filled) > 0,
           'remove': len(scene.filled) > 1, 'swap': len(scene.filled) > 1}
  return needs.get(kind, len(scene.filled) > 0)


def _add(setting: Setting, scene: Scene) -> Change:
  palette, speaker = setting.palette, setting.speaker
  cell, item = palette.cell(scene.free), palette.item('plain', scene.items)
  return Change('add', scene.placed({cell: item}),
                dict(a=speaker.a(item), place=speaker.place(cell)), item.key, item)


def _remove(setting: Setting, scene: Scene) -> Change:
  cell = setting.palette.cell(scene.filled)
  return Change('remove', scene.placed({cell: None}),
                dict(the=setting.speaker.the(scene, cell)), _name(scene.items[cell]))


def _replace(setting: Setting, scene: Scene) -> Change:
  palette, speaker = setting.palette, setting.speaker
  cell, item = palette.cell(scene.filled), palette.item('plain', scene.items)
  return Change('replace', scene.placed({cell: item}),
                dict(the=speaker.the(scene, cell), a=speaker.a(item)), item.key, item)


def _recolour(setting: Setting, scene: Scene) -> Change:
  """Also of a patterned item, which loses its pattern."""
  cell = setting.palette.cell(scene.filled)
  old = scene.items[cell]
  taken = {(item.shape, item.colors) for item in scene.items if item}
  color = setting.rng.choice([color for color in COLORS if (old.shape, (color,)) not in taken])
  item = Item(old.shape, (color,), size=old.size)
  return Change('recolour', scene.placed({cell: item}),
                dict(the=setting.speaker.the(scene, cell), color=setting.speaker.word(color)),
                item.key, item)


def _move(setting: Setting, scene: Scene) -> Change:
  old, new = setting.palette.cell(scene.filled), setting.palette.cell(scene.free)
  item = scene.items[old]
  return Change('move', scene.placed({old: None, new: item}),
                dict(the=setting.speaker.the(scene, old), place=setting.speaker.place(new)),
                _name(item))


def _swap(setting: Setting, scene: Scene) -> Change:
  first, second = setting.rng.sample(scene.filled, 2)
  one, other = scene.items[first], scene.items[second]
  speaker = setting.speaker
  return Change('swap', scene.placed({first: other, second: one}),
                dict(the=speaker.the(scene, first), other=speaker.the(scene, second)),
                f'{_name(one)} {_name(other)}')


def _ground(setting: Setting, scene: Scene) -> Change:
  ground = setting.palette.ground(but=scene.ground)
  return Change('ground', dataclasses.replace(scene, ground=ground),
                dict(color=setting.speaker.word(ground)), f'{ground} {len(scene.filled)}')


def _name(item: Item) -> str:
  """What combinations are told by: of patterned items the shape alone."""
  return item.shape if len(item.colors) > 1 else item.key


CHANGES: dict[str, Callable[[Setting, Scene], Change]] = {
    'add': _add, 'remove': _remove, 'replace': _replace, 'recolour': _recolour, 'move': _move,
    'swap': _swap, 'ground': _ground}
