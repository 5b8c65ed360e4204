"""Marks of drawn problems: what of a picture is as it was asked for, and of a dialogue's text."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from jaxgen.data.shapes.drawing import STYLES
from jaxgen.data.shapes.geneval import RELATIONS
from jaxgen.data.shapes.geneval import Request
from jaxgen.data.shapes.phrases import LANGUAGES
from jaxgen.data.shapes.phrases import PHRASES
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Words
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import Scene
from jaxgen.evaluation.shapes.reader import read


@dataclasses.dataclass(frozen=True)
class Marks:
  """How one drawn image compares with what was asked for.

  Attributes:
    correct: it shows one of the scenes that answer the problem, exactly.
    cells: share of the cells that show what they should, in the best of those scenes.
    kept: share of the cells that nothing should happen to and that are as before; None without any.
    identity: share of the items known from other images only that are in it; None without any.
    recognised: the same where objects stand in the cells where they should, and nowhere else;
      None elsewhere.
    consistent: share of the items due in this image and in the one before it that look the same in
      both, right or wrong; None without any.
    style: it has the style, and the ground, that it should have.
  """

  correct: bool
  cells: float
  kept: float | None
  identity: float | None
  recognised: float | None
  consistent: float | None
  style: bool


def mark(image: np.ndarray, picture: Picture) -> Marks:
  """Marks a drawn image.

  Args:
    image: uint8[H, W, 3].
    picture: what was asked for.
  """
  return mark_series([image], [picture])[0]


def mark_series(images: Sequence[np.ndarray], pictures: Sequence[Picture]) -> list[Marks]:
  """Marks the images of one problem, in their order; see ``mark``."""
  seen = [read(image, picture.scene.grid,
               ('filled',) if picture.scene.style == 'filled' else STYLES)
          for image, picture in zip(images, pictures, strict=True)]
  marks = [_marks(scene, picture) for scene, picture in zip(seen, pictures)]
  return marks[:1] + [
      dataclasses.replace(marks[turn], consistent=_consistent(
          seen[turn - 1], pictures[turn - 1].scene, seen[turn], pictures[turn].scene))
      for turn in range(1, len(marks))]


def _marks(seen: Scene, picture: Picture) -> Marks:
  """Marks of what was read back from an image; those that need another image are None."""
  wanted = picture.scene
  if picture.request is not None:
    right = grants(seen, picture.request)
    return Marks(right, float(right), None, None, None, None, True)
  answers, cells = (wanted, *picture.also), range(len(seen.items))
  best = max(answers, key=lambda answer: _alike(seen, answer, cells))
  untouched = _untouched(picture.before, best)
  known = {_look(item) for item in seen.items if item}
  identity = (float(np.mean([_look(item) in known for item in picture.identity]))
              if picture.identity else None)
  return Marks(
      correct=seen in answers, cells=_alike(seen, best, cells),
      kept=_alike(seen, best, untouched) if untouched else None, identity=identity,
      recognised=identity if seen.filled == best.filled else None, consistent=None,
      style=(seen.style, seen.ground) == (best.style, best.ground))


def grants(scene: Scene, request: Request) -> bool:
  """True if the scene has what a caption of GenEval's kinds asks for."""
  if request.task == 'counting':
    shape, _ = request.wanted[0]
    return sum(item is not None and item.shape == shape for item in scene.items) == len(
        request.wanted)
  places = [[cell for cell in scene.filled if scene.items[cell].shape == shape
             and color in (None, *scene.items[cell].colors[:1])]
            for shape, color in request.wanted]
  if request.relation is None:
    return all(places)
  right, down = RELATIONS[request.relation]
  columns = scene.grid[1]
  offsets = [np.subtract(divmod(first, columns), divmod(second, columns))
             for first in places[0] for second in places[1]]
  return any(x * right + y * down > abs(x * down) + abs(y * right) for y, x in offsets)


@dataclasses.dataclass(frozen=True)
class DialogueMarks:
  """How the text of a dialogue compares with the one that was due.

  Attributes:
    order: texts and images follow each other as they should, so every <BOV> came where due.
    exact: share of the texts that are as they should be, letter for letter.
    grammar: share of the texts that are sentences of the drawn world.
  """

  order: bool
  exact: float
  grammar: float


def mark_dialogue(answer: Sequence[str | np.ndarray], problem: Problem) -> DialogueMarks:
  """Marks what was generated, texts and images in turn, after the user's part of a problem."""
  due = [part for part in problem.parts
         if part.role == 'target' or isinstance(part, Words) and part.role == 'assistant']
  texts = [part for part in answer if isinstance(part, str)]
  wanted = [part.text for part in due if isinstance(part, Words)]
  count = max(len(texts), len(wanted), 1)
  return DialogueMarks(
      order=[isinstance(part, str) for part in answer] == [isinstance(part, Words)
                                                           for part in due],
      exact=sum(text.strip() == other for text, other in zip(texts, wanted)) / count,
      grammar=sum(is_sentence(text) for text in texts) / count)


def is_sentence(text: str) -> bool:
  """True for a step or a closing sentence, in any language and wording."""
  return any(_SENTENCES[phrase].fullmatch(text.strip()) for phrase in ('step', 'done'))


def _sentences(phrase: str, **words: str) -> re.Pattern[str]:
  forms = {form for language in LANGUAGES for form in PHRASES[phrase][language]}
  found = []
  for form in sorted(forms):
    pieces = re.split(r'(\{\w+\})', form)
    found.append(''.join(words.get(piece[1:-1], '.+') if piece.startswith('{') else
                         re.escape(piece) for piece in pieces))
  return re.compile('|'.join(f'(?:{form})' for form in found))


_CHANGES = '|'.join(_sentences(kind).pattern for kind in (
    'add', 'remove', 'replace', 'recolour', 'move', 'swap', 'ground'))
_SENTENCES = {'step': _sentences('step', number=r'\d', what=f'(?:{_CHANGES})'),
              'done': _sentences('done', number=r'\d')}


def _alike(seen: Scene, wanted: Scene, cells: Sequence[int]) -> float:
  """Share of some cells that show the same."""
  return float(np.mean([seen.items[cell] == wanted.items[cell] for cell in cells]))


def _consistent(before: Scene, due_before: Scene, seen: Scene, due: Scene) -> float | None:
  """Share of the items of two successive pictures that look the same where they should stand."""
  places = {_look(item): cell for cell, item in enumerate(due_before.items) if item}
  pairs = [(before.items[places[_look(item)]], seen.items[cell])
           for cell, item in enumerate(due.items) if item and _look(item) in places]
  return float(np.mean([bool(first and second) and _look(first) == _look(second)
                        for first, second in pairs])) if pairs else None


def _untouched(before: Scene | None, after: Scene) -> list[int]:
  """Cells that are the same before and after, of scenes that can be compared."""
  if before is None or before.grid != after.grid:
    return []
  return [cell for cell, item in enumerate(after.items) if item == before.items[cell]]


def _look(item: Item) -> tuple[object, ...]:
  return item.shape, item.colors, item.pattern
