"""GenEval's verdict on an image from the objects that a detector found in it (L148).

The rules of the official script: objects above a threshold, the 16 surest of each class; clauses
that include are all to hold, with colours and positions of the surest objects only; a clause that
excludes fails the image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

THRESHOLD, COUNTING = 0.3, 0.9  # least score of an object; of prompts that count
MOST = 16  # objects of a class
MARGIN = 0.1  # of the sum of the sides of two boxes, by which their centres must differ
DIRECTION = 0.5  # least component of the direction between two objects
COLORS = ('red', 'orange', 'yellow', 'green', 'blue', 'purple', 'pink', 'brown', 'black', 'white')

# GenEval's names of the 80 classes of COCO, in COCO's order; three of them differ from COCO's.
OBJECTS = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat',
    'traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat',
    'dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack',
    'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball',
    'kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket',
    'bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple',
    'sandwich', 'orange', 'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair',
    'couch', 'potted plant', 'bed', 'dining table', 'toilet', 'tv', 'laptop', 'computer mouse',
    'tv remote', 'computer keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink',
    'refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier',
    'toothbrush')


class Found(NamedTuple):
  """One object: its box (left, top, right, bottom) in pixels, score, and colour where known."""

  box: tuple[float, float, float, float]
  score: float
  color: str = ''


Objects = Mapping[str, Sequence[Found]]


def kept(objects: Objects, tag: str) -> dict[str, list[Found]]:
  """The objects that count, of each class the surest first."""
  least = COUNTING if tag == 'counting' else THRESHOLD
  return {name: sorted((found for found in own if found.score > least),
                       key=lambda found: -found.score)[:MOST] for name, own in objects.items()}


def verdict(objects: Objects, facts: Mapping[str, Any]) -> tuple[bool, str]:
  """Whether an image is right, and the reasons if not.

  Args:
    objects: of ``kept``; those that a clause with a colour is about know their colours.
    facts: ``include``, a list of ``class``, ``count`` and maybe ``color`` or ``position``
      (relation, index of an earlier clause); and ``exclude``, a list of ``class`` and ``count``.
  """
  reasons, matched = [], []
  for clause in facts.get('include', ()):
    found = list(objects.get(clause['class'], ()))[:clause['count']]
    reason = _objection(clause, found, matched)
    matched.append(None if reason else found)
    reasons += [reason] if reason else []
  for clause in facts.get('exclude', ()):
    count = len(objects.get(clause['class'], ()))
    if count >= clause['count']:
      reasons.append(f'expected {clause["class"]}<{clause["count"]}, found {count}')
  return not reasons, '\n'.join(reasons)


def _objection(clause: Mapping[str, Any], found: Sequence[Found],
               matched: Sequence[Sequence[Found] | None]) -> str:
  """Why a clause does not hold; '' where it does."""
  name, count = clause['class'], clause['count']
  if len(found) < count:
    return f'expected {name}>={count}, found {len(found)}'
  if color := clause.get('color'):
    colors = [own.color for own in found]
    if colors.count(color) < count:
      others = ', '.join(f'{colors.count(other)} {other}' for other in COLORS if other in colors)
      return f'expected {color} {name}>={count}, found {colors.count(color)} {color}; and {others}'
  if clause.get('position'):
    relation, index = clause['position']
    targets = matched[index]
    if targets is None:
      return f'no target for {name} to be {relation}'
    for own in found:
      for target in targets:
        relations = relative_position(own.box, target.box)
        if relation not in relations:
          return f'expected {name} {relation} target, found {" and ".join(relations)} target'
  return ''


def relative_position(box: Sequence[float], other: Sequence[float]) -> list[str]:
  """How a box lies to another: none, one or two of left of, right of, above, below.

  The offset of the centres is shortened by ``MARGIN`` of the sides on each axis, and a direction
  counts if it makes up more than ``DIRECTION`` of the whole offset.
  """
  corners = np.array([box, other], float).reshape(2, 2, 2)  # box, corner, x and y
  centers, sides = corners.mean(1), np.abs(corners[:, 1] - corners[:, 0])
  offset = centers[0] - centers[1]
  beyond = np.maximum(np.abs(offset) - MARGIN * sides.sum(0), 0) * np.sign(offset)
  if np.all(np.abs(beyond) < 1e-3):
    return []
  dx, dy = beyond / np.linalg.norm(offset)
  return [name for name, holds in (('left of', dx < -DIRECTION), ('right of', dx > DIRECTION),
                                   ('above', dy < -DIRECTION), ('below', dy > DIRECTION)) if holds]
