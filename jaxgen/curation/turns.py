"""Stages that make chains of edits: joined from sets with turns, and continued by models (L017).

iMontage (section 3.2.2) has about 100k of them; all sub-steps are answered at once. Records have
``images``, the first one and that after each turn, and ``steps``, the wordings of each turn.
"""

import functools
import re
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from jaxgen.curation import answers
from jaxgen.curation import edits
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.decode import image_file
from jaxgen.data.wordings import numbered

PROPOSE = (
    'Propose {count} edits of this picture that a user could ask for one after the other, each of '
    'the picture that the one before has left. They must be of different kinds: add, remove, '
    'replace or move a thing, change its colour or material, the background, the weather, the '
    'light or the style. Each is one sentence of at most 25 words that is clear without the '
    'others.{done}\n'
    'Answer with a JSON list of {count} strings.')
DONE = ' What was asked for before: {steps}'
_CHAIN = re.compile('(source user|user source) target( user target)*')  # roles of parts
SAME = 4.0  # grey levels by which two files of one picture differ on average, at the most


def turns_of(record: Record, *, pattern: str = r'(.+)-(\d+)') -> Record | Dropped:
  """Takes a sample apart: one edit, several turns, or a picture alone, which has none yet.

  Args:
    record: with ``sample``. It gets ``chain``, what single edits of one picture have in common, and
      ``turn``, the number of the first one.
    pattern: of ids that name both, as MagicBrush's; others are chains of their own.
  """
  sample = record['sample']
  parts = [part for part in sample.parts if part.is_image or part.role == 'user']
  images = [part for part in parts if part.is_image]
  alone = len(images) == 1
  if not alone and not _CHAIN.fullmatch(' '.join(part.role for part in parts)):
    return record.drop('no chain of edits', roles=[part.role for part in sample.parts])
  steps = [] if alone else [part for part in parts if not part.is_image]
  found = re.fullmatch(pattern, record.id) if len(steps) == 1 else None
  return record.without('sample').having(
      images=[image_file(part.image) for part in images],
      steps=[list(part.variants or (part.text,)) for part in steps],
      chain=found[1] if found else record.id, turn=int(found[2]) if found else 1)


def chained(records: Sequence[Record]) -> Iterator[Record | Dropped]:
  """Joins edits whose source is the result of the one before: for ``Group``.

  Args:
    records: of one ``chain``. Where a turn is missing, or goes on from another picture, a new chain
      begins.
  """
  chains: list[list[Record]] = []
  for record in sorted(records, key=lambda record: record['turn']):
    last = chains[-1][-1] if chains else None
    if last and record['steps'] and last['steps'] and record['turn'] == last['turn'] + 1 and (
        _same(last['images'][-1], record['images'][0])):
      chains[-1].append(record)
    else:
      chains.append([record])
  for first, *others in chains:
    yield first.joined(*others).having(
        images=[*first['images'], *(image for each in others for image in each['images'][1:])],
        steps=[step for each in (first, *others) for step in each['steps']]) if others else first


def continued(record: Record, *, writer: Model, editor: Model, least: int = 2, most: int = 4,
              seed: int = 0) -> Record | Dropped:
  """Has a chain that is too short continued to a random length: proposed at once, drawn in turn.

  Args:
    record: with ``images`` and ``steps``. It gets ``drawn``, the number of turns that were added.
    writer: sees images.
    editor: draws.
    least, most: turns of a chain.
    seed: of the length.
  """
  images, steps = list(record['images']), list(record['steps'])
  count = int(record.rng(seed).integers(least, most + 1)) - len(steps)
  if len(steps) >= least or count < 1:
    return record.having(drawn=0)
  done = DONE.format(steps=numbered([step[0] for step in steps])) if steps else ''
  found = answers.answer(
      writer, Request(PROPOSE.format(count=count, done=done), (answers.shown(images[-1]),)),
      functools.partial(_proposals, count=count, known=[step[0] for step in steps]))
  if found.error:
    return record.drop('no proposals', error=found.error)
  for step in found.value:
    reply, = editor.ask([Request(step, (images[-1],))])
    if reply.error or not reply.images:
      return record.drop('not drawn', error=reply.error)
    images.append(reply.images[0])
    steps.append([step])
  return record.having(images=images, steps=steps, drawn=count).noting(drawn=count)


def judged_turns(record: Record, *, model: Model, least: int = 2, fidelity: float = 7,
                 quality: float = 7) -> Record | Dropped:
  """Has the turns that models have drawn judged; a chain ends before the first poor one.

  Args:
    record: with ``images``, ``steps`` and ``drawn``.
    model, fidelity, quality: as for ``edits.judged``.
    least: turns of a chain.
  """
  images, steps = record['images'], record['steps']
  for turn in range(len(steps) - record['drawn'], len(steps)):
    made = edits.judged(record.having(source=images[turn], target=images[turn + 1],
                                      instruction=steps[turn]),
                        model=model, fidelity=fidelity, quality=quality)
    if isinstance(made, Dropped):
      if turn < least:
        return record.drop(made.reason, turn=turn + 1, **made.facts)
      kept = turn - len(steps) + record['drawn']
      return record.having(images=images[:turn + 1], steps=steps[:turn]).noting(drawn=kept)
  return record


def windows(record: Record, *, least: int = 2, most: int = 4) -> Iterator[Record | Dropped]:
  """Chains of at most ``most`` turns: the image, its numbered edits, the image after each of them.

  Args:
    record: with ``images`` and ``steps``. What it gives has ``given``, ``instruction`` and
      ``targets``.
    least, most: turns.
  """
  images, steps = record['images'], record['steps']
  if len(steps) < least:
    yield record.drop('few turns', turns=len(steps))
    return
  made = record.without('images', 'steps', 'chain', 'turn', 'drawn')
  for start in range(0, len(steps), most):
    part = steps[start:start + most]
    if len(part) < least:
      return
    wordings = min(len(step) for step in part)
    fields = dict(given=images[start:start + 1], targets=images[start + 1:start + len(part) + 1],
                  instruction=[numbered([step[number] for step in part])
                               for number in range(wordings)])
    yield made.child(f'turn-{start + 1}', **fields) if start else made.having(**fields)


def _same(one: bytes, other: bytes) -> bool:
  """Whether two files show one picture."""
  if one == other:
    return True
  left, right = decode(one), decode(other)
  return left.shape == right.shape and float(
      np.abs(left.astype(np.int16) - right).mean()) <= SAME


def _proposals(text: str, count: int, known: Sequence[str]) -> list[str]:
  found = answers.value_of(text, list)
  if len(found) != count or not all(isinstance(each, str) and each.strip() for each in found):
    raise ValueError(f'it must be a list of {count} strings')
  found = [' '.join(each.split()) for each in found]
  if len({each.casefold() for each in (*found, *known)}) < count + len(known):
    raise ValueError('every edit must be another one')
  return found
