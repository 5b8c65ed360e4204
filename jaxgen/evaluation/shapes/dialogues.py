"""Marks of answers to drawn dialogues: what was written, where images came, and what they show."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Problem
from jaxgen.data.shapes.problems import Words
from jaxgen.evaluation.shapes.marks import mark_dialogue
from jaxgen.evaluation.shapes.marks import mark_series
from jaxgen.evaluation.shapes.marks import Marks

# Of an image that was due and is not there.
_MISSING = Marks(correct=False, cells=0.0, kept=None, identity=None, recognised=None,
                 consistent=None, style=False)


def mark_answer(answer: Sequence[str | np.ndarray], problem: Problem) -> list[dict[str, Any]]:
  """Marks an answer, one mapping for each image that was due; surplus images have none.

  Args:
    answer: texts and images uint8[H, W, 3] in turn.
    problem: a dialogue.

  Returns:
    ``correct``: the image shows what it should, behind the text that it should stand behind.
    ``image``: the first of both, of images whose texts so far are exact; None elsewhere.
    ``order``, ``exact`` and ``grammar``: of the whole dialogue, see ``DialogueMarks``, and
    ``text``: all texts are exact. They stand at the first image, so that dialogues count alike.
    The others are those of ``Marks``.
  """
  told = mark_dialogue(answer, problem)
  whole = dict(order=told.order, text=told.exact == 1, exact=told.exact, grammar=told.grammar)
  texts, images = _steps(answer)
  due, _ = _steps([part.text if isinstance(part, Words) else part for part in problem.parts
                   if part.role in ('assistant', 'target')])
  count = min(len(images), len(due))
  seen = mark_series(images[:count], problem.targets[:count])
  seen += [_MISSING] * (len(due) - count)
  marks, exact = [], True
  for number, (wanted, image) in enumerate(zip(due, seen, strict=True)):
    exact = exact and number < len(texts) and texts[number] == wanted
    marks.append(dict(
        dataclasses.asdict(image), correct=image.correct and exact,
        image=image.correct if exact else None,
        **(whole if number == 0 else dict.fromkeys(whole))))
  return marks


def _steps(parts: Sequence[str | np.ndarray | Picture]) -> tuple[list[str], list]:
  """What was said before each image, since the one before it, and the images."""
  texts, images, said = [], [], []
  for part in parts:
    if isinstance(part, str):
      said.append(part)
    else:
      texts.append(' '.join(said).strip())
      images.append(part)
      said = []
  return texts, images
