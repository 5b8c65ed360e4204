"""OpenING's arena: a judge compares documents of two models; ties are counted in four ways."""

import collections
import hashlib
import json
from collections.abc import Mapping, Sequence

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_text
from jaxgen.evaluation.benchmarks import replies
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import Unreadable
from jaxgen.evaluation.benchmarks.interleaved import drawn_document
from jaxgen.evaluation.judge import Call
from jaxgen.evaluation.judge import Judge
from jaxgen.evaluation.rubrics import read_rubric
from jaxgen.evaluation.rubrics import Rubric

VERDICTS = ('A', 'B', 'Tie(A)', 'Tie(B)')
BATTLES, REPLIES = 'battles.json', 'battles.jsonl'


def battles(items: Sequence[Item], folder: str, other: str, judge: Judge, rubrics: str = ''
            ) -> tuple[list[dict[str, str]], dict[str, str]]:
  """Has a judge compare every document with that of another model, sides drawn by lot.

  Writes ``battles.json`` in the form of the official results.

  Args:
    items: of OpenING.
    folder, other: of the documents of the two models, which are called by these folders' names.
    judge: that is asked.
    rubrics: folder whose files are taken before ours.

  Returns:
    ``data_id``, ``model_A``, ``model_B`` and ``winner`` of each battle, and the names of those
    whose replies could not be read, with the reason.
  """
  names = [epath.Path(path).name for path in (folder, other)]
  if names[0] == names[1]:
    raise user_error('--against', other, 'has the name of --out; rename one of the two')
  rubric, found, missing = read_rubric('opening_pair', rubrics), [], {}
  sides = [_sides(item, folder, other) for item in items]
  calls = [_call(item, own, rubric) for item, own in zip(items, sides, strict=True)]
  for item, own, reply in zip(items, sides, judge.ask(calls), strict=True):
    try:
      if reply.text is None or reply.cut:
        raise Unreadable(reply.error or 'cut short')
      found.append(dict(data_id=item.key, model_A=epath.Path(own[0]).name,
                        model_B=epath.Path(own[1]).name, winner=replies.verdict(reply.text)))
    except Unreadable as error:
      missing[item.key] = str(error)
  write_text(epath.Path(folder) / BATTLES, json.dumps(
      [battle | {side: dict(name=battle[side], id=battle[side]) for side in ('model_A', 'model_B')}
       for battle in found], indent=1))
  return found, missing


def win_rates(battles: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float | None]]:
  """Win rates of models in OpenING's arena, by its four ways to count a tie.

  Args:
    battles: ``model_A``, ``model_B`` and ``winner``, one of ``VERDICTS``.

  Returns:
    way -> model -> rate: ``forced`` to the side that it leans to, ``dropped``, counted as 0
    (``lost``) or as 0.5 (``half``). None for a model without a battle that counts.
  """
  table: dict[str, dict[str, list[float]]] = {
      way: collections.defaultdict(list) for way in ('forced', 'dropped', 'lost', 'half')}
  for battle in battles:
    winner, tie = battle['winner'], battle['winner'].startswith('Tie')
    if winner not in VERDICTS:
      raise user_error('winner', winner, f'use one of {", ".join(VERDICTS)}')
    for side in 'AB':
      model, won = battle[f'model_{side}'], float(side in winner.removeprefix('Tie'))
      table['forced'][model].append(won)
      table['dropped'][model] += [] if tie else [won]
      table['lost'][model].append(0.0 if tie else won)
      table['half'][model].append(0.5 if tie else won)
  return {way: {model: sum(found) / len(found) if found else None
                for model, found in rates.items()} for way, rates in table.items()}


def lines_of(found: Sequence[Mapping[str, str]], missing: Mapping[str, str]) -> list[str]:
  """The win rates as lines of text."""
  lines = [f'ties {way}: ' + '  '.join(
      f'{model} {"none" if rate is None else format(rate, ".3f")}'
      for model, rate in rates.items()) for way, rates in win_rates(found).items()]
  return [*lines, f'{len(found)} battles, {len(missing)} whose replies could not be read']


def _sides(item: Item, folder: str, other: str) -> tuple[str, str]:
  """The folders of A and B: half of the items each way, always the same."""
  swapped = hashlib.sha256(item.key.encode()).digest()[0] % 2
  return (other, folder) if swapped else (folder, other)


def _call(item: Item, sides: tuple[str, str], rubric: Rubric) -> Call:
  (first, images), (second, others) = (drawn_document(item, side, 'opening') for side in sides)
  fields = dict(instruction=item.text, inputs=str(len(item.source)), document_a=first,
                document_b=second, images_a=str(len(images)))
  return Call(item.key, 'pair', rubric.digest, rubric.turns(fields),
              (*(image.path for image in item.source), *images, *others), side=512)
