"""Text to image: GenEval, GenEval 2, DPG-Bench, and WISE by both of its protocols (L100, L148)."""

import json
import math
from collections.abc import Sequence
from typing import Any

from jaxgen.core.errors import user_error
from jaxgen.evaluation.benchmarks import replies
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import pick
from jaxgen.evaluation.benchmarks.base import Question
from jaxgen.evaluation.benchmarks.base import Scores
from jaxgen.evaluation.benchmarks.base import Unreadable
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.files import field
from jaxgen.evaluation.benchmarks.tallies import average
from jaxgen.evaluation.benchmarks.tallies import Measures
from jaxgen.evaluation.benchmarks.tallies import Pool
from jaxgen.evaluation.benchmarks.tallies import Table
from jaxgen.evaluation.benchmarks.tallies import tally
from jaxgen.evaluation.benchmarks.tallies import Tally
from jaxgen.evaluation.benchmarks.tallies import tally_of

TAGS = ('single_object', 'two_object', 'counting', 'colors', 'position', 'color_attr')
NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
# Group -> (first, last id, weight in the overall score).
LEGACY = {'culture': (1, 400, 0.4), 'time': (401, 567, 0.167), 'space': (568, 700, 0.133),
          'biology': (701, 800, 0.1), 'physics': (801, 900, 0.1), 'chemistry': (901, 1000, 0.1)}
VERIFIED = {'culture': (1, 400, 0.4), 'time': (401, 520, 0.12), 'space': (521, 640, 0.12),
            'biology': (641, 760, 0.12), 'physics': (761, 880, 0.12),
            'chemistry': (881, 1000, 0.12)}


def geneval(data: Data, file: str = 'evaluation_metadata.jsonl') -> list[Item]:
  """Four images of each of 553 prompts, with the line of metadata that the scorer reads."""
  items = []
  for number, record in enumerate(data.lines(file)):
    folder, where = f'{number:05d}', f'{data.folder / file}:{number + 1}'
    items.append(Item(
        folder, field(record, 'tag', where), field(record, 'prompt', where),
        tuple(f'{folder}/samples/{draw:04d}.png' for draw in range(4)),
        beside={f'{folder}/metadata.jsonl': json.dumps(record)},
        facts={name: record.get(name, []) for name in ('include', 'exclude')}))
  return items


def geneval_measures(item: Item, scores: Scores) -> Measures:
  """Scores are the verdicts on the four images."""
  right = list(scores.values())
  any_right = None if None in right and 1.0 not in right else max(right)
  return dict(correct=tally_of(right), any_correct=tally(any_right))


def geneval_summary(pool: Pool) -> Table:
  """The mean of each tag, and ``overall``, the mean of those."""
  tags = {tag: pool.mean('correct', [tag]) for tag in [
      *(tag for tag in TAGS if tag in pool.groups),
      *(group for group in pool.groups if group not in TAGS)]}
  return dict(tags, overall=average(tags.values()), images=pool.mean('correct'),
              prompts=pool.mean('any_correct'))


def geneval2(data: Data) -> list[Item]:
  """One image of each of 800 prompts; scores are probabilities of the right answers."""
  items = []
  for number, record in enumerate(data.lines('geneval2_data.jsonl')):
    where = f'{data.folder / "geneval2_data.jsonl"}:{number + 1}'
    questions = field(record, 'vqa_list', where, list)
    items.append(Item(
        f'{number:05d}', str(field(record, 'atom_count', where, int)),
        field(record, 'prompt', where), (f'{number:05d}.png',),
        facts=dict(questions=questions, skills=field(record, 'skills', where, list))))
  return items


def geneval2_ask(item: Item, folder: str) -> Sequence[Question]:
  """One question for each atom of the prompt."""
  return [Question(str(number), 'geneval2', dict(question=question),
                   (f'{folder}/{item.files[0]}',), (str(number),), words=variants(answer))
          for number, (question, answer) in enumerate(item.facts['questions'])]


def variants(answer: str) -> tuple[str, ...]:
  """Spellings of an answer whose probabilities are added: cases, digits, with a space before."""
  forms = [answer.lower(), answer.capitalize()]
  if answer.lower() in NUMBERS:
    forms.append(str(NUMBERS.index(answer.lower())))
  return tuple(dict.fromkeys(spelt for form in forms for spelt in (form, f' {form}')))


def geneval2_measures(item: Item, scores: Scores) -> Measures:
  """Geometric and arithmetic means over the atoms of a prompt, and each atom under its skill."""
  found = pick(scores, *scores)
  geometric = found and (0.0 if min(found) == 0 else
                         math.exp(sum(map(math.log, found)) / len(found)))
  measures = dict(gm=tally(geometric), am=tally(found and sum(found) / len(found)))
  for skill in dict.fromkeys(item.facts['skills']):
    measures[f'skill/{skill}'] = tally_of(
        score for score, own in zip(scores.values(), item.facts['skills']) if own == skill)
  return measures


def geneval2_summary(pool: Pool) -> Table:
  """Soft-TIFA x 100: over prompts, over the atoms of each skill, over prompts of each length."""
  table = {'soft_tifa_gm': pool.mean('gm'), 'soft_tifa_am': pool.mean('am')}
  table |= {name: pool.mean(name) for name in pool.names if name.startswith('skill/')}
  table |= {f'atoms/{group}': pool.mean('gm', [group]) for group in sorted(pool.groups, key=int)}
  return {name: mean.times(100) for name, mean in table.items()}


def geneval2_index(items: Sequence[Item], folder: str) -> dict[str, str]:
  """The official scorer's map from prompts to paths."""
  return {'image_paths.json': json.dumps(
      {item.text: f'{folder}/{item.files[0]}' for item in items},
      indent=1, ensure_ascii=False)}


def dpg(data: Data) -> list[Item]:
  """Four images of each of 1065 prompts, in one file as a 2x2 grid."""
  if (data.folder / 'prompts.jsonl').exists():
    texts = {field(record, 'item_id', 'prompts.jsonl'): field(record, 'prompt', 'prompts.jsonl')
             for record in data.lines('prompts.jsonl')}
  else:
    texts = {file.stem: file.read_text().strip()
             for file in sorted(data.path('prompts').glob('*.txt'))}
  questions = dpg_questions(data) if (data.folder / 'dpg_bench.csv').exists() else {}
  # In a folder of their own: the official script takes every file of it for an image.
  return [Item(key, 'all', text, (f'images/{key}.png',), grid=True,
               facts=dict(questions=questions.get(key, []), csv=str(data.folder / 'dpg_bench.csv')))
          for key, text in texts.items()]


def dpg_questions(data: Data) -> dict[str, list[dict[str, Any]]]:
  """item -> its questions: ``id``, ``parents`` ([] = none), ``tuple``, ``question``, ``first``.

  ``first`` is the first row of the file, which the official script leaves out.
  """
  found: dict[str, list[dict[str, Any]]] = {}
  for number, row in enumerate(data.csv('dpg_bench.csv')):
    where = f'{data.folder / "dpg_bench.csv"}, row {number + 1}'
    parents = _ids(field(row, 'dependency', where), where)
    found.setdefault(field(row, 'item_id', where), []).append(dict(
        id=_ids(field(row, 'proposition_id', where), where)[0],
        parents=[parent for parent in parents if parent], tuple=field(row, 'tuple', where),
        question=field(row, 'question_natural_language', where), first=number == 0))
  return found


def _ids(text: str, where: str) -> list[int]:
  if not all(part.strip().isdecimal() for part in text.split(',')):
    raise user_error(where, text, 'must be numbers of questions with commas')
  return [int(part) for part in text.split(',')]


def dpg_ask(item: Item, folder: str) -> Sequence[Question]:
  """Every question of an item about each of the four images of its grid."""
  if not item.facts['questions']:
    raise user_error('--data', item.facts['csv'], f'has no questions for {item.key}; get '
                     'dpg_bench.csv from github.com/TencentQQGYLab/ELLA, dpg_bench')
  file = f'{folder}/{item.files[0]}'
  return [Question(name, 'dpg', dict(question=question['question']),
                   ((file, (left, top, left + 0.5, top + 0.5)),), (name,),
                   parse=lambda reply, name=name: {name: replies.yes_or_no(reply)})
          for crop, (top, left) in enumerate([(0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)])
          for question in item.facts['questions'] for name in [f'{crop}/{question["id"]}']]


def dpg_measures(item: Item, scores: Scores) -> Measures:
  """``overall``: children of a question that was denied count 0; categories without that rule.

  The official script (``official/``) leaves out the first row of its file, with it every item
  that has a child of that row, and takes categories from the last of the four images only.
  """
  questions = item.facts['questions']
  crops = [{question['id']: scores[f'{crop}/{question["id"]}'] for question in questions}
           for crop in range(4)]
  measures = dict(overall=_mean_of_crops(questions, crops))
  kept = [question for question in questions if not question['first']]
  ids = {question['id'] for question in kept}
  whole = bool(kept) and all(ids.issuperset(question['parents']) for question in kept)
  if whole:
    measures['official/overall'] = _mean_of_crops(kept, crops)
  for name in sorted({level for question in questions for level in _levels(question)}):
    measures[name] = tally_of(crop[question['id']] for crop in crops for question in questions
                              if name in _levels(question))
    if whole:
      measures[f'official/{name}'] = tally_of(
          crops[3][question['id']] for question in kept if name in _levels(question))
  return measures


def dpg_summary(pool: Pool) -> Table:
  """Means x 100 of the measures."""
  order = sorted(pool.names, key=lambda name: (name.startswith('official/'), '/' in name, name))
  return {name: pool.mean(name).times(100) for name in order}


def _mean_of_crops(questions: Sequence[dict[str, Any]], crops: Sequence[dict[int, float | None]]
                   ) -> Tally:
  means = []
  for answers in crops:
    if any(answers[question['id']] is None for question in questions):
      continue
    found = {question['id']: answers[question['id']] for question in questions}
    for question in questions:  # in the order of the file: a zero goes on to grandchildren
      if any(found.get(parent) == 0 for parent in question['parents']):
        found[question['id']] = 0.0
    means.append(sum(found.values()) / len(found))
  missing = len(crops) - len(means)
  return Tally(sum(means) / len(means), 1, missing) if means else Tally(0.0, 0, missing)


def _levels(question: dict[str, Any]) -> tuple[str, str]:
  """``entity - whole (..)`` as its detailed and its broad category."""
  detailed = question['tuple'].split('(')[0].strip()
  return f'L2/{detailed}', f'L1/{detailed.split("-")[0].strip()}'


def wise(data: Data, ranges: dict[str, tuple[int, int, float]]) -> list[Item]:
  """One image of each of 1000 prompts; groups are ranges of ids."""
  items = []
  for file in sorted(data.folder.glob('*.json')) if data.folder.exists() else []:
    if file.name.endswith('_rewrite.json') or file.name == 'merge.json':
      continue
    for record in data.json(file.name):
      number = field(record, 'prompt_id', str(file), int)
      group = next((name for name, (first, last, _) in ranges.items() if first <= number <= last),
                   None)
      if group is None:
        raise user_error(f'{file}: prompt_id', number, 'use the files of WISE, 1 to 1000')
      items.append(Item(str(number), group, field(record, 'Prompt', str(file)), (f'{number}.png',),
                        facts=dict(explanation=field(record, 'Explanation', str(file)))))
  if not items:
    data.path('cultural_common_sense.json')
  return sorted(items, key=lambda item: int(item.key))


def wise_ask(item: Item, folder: str, legacy: bool) -> Sequence[Question]:
  """One call for the three scores of the legacy protocol, or for the one of the verified."""
  fields = dict(prompt=item.text, explanation=item.facts['explanation'])
  image = (f'{folder}/{item.files[0]}',)
  if legacy:
    return [Question('scores', 'wise_legacy', fields, image,
                     ('consistency', 'realism', 'aesthetic'), parse=_wise_legacy)]
  return [Question('score', 'wise_verified', fields, image, ('score',), parse=lambda reply: (
      replies.labelled(reply, dict(score='Score'), 0, 1)))]


def _wise_legacy(reply: str) -> Scores:
  labels = dict(consistency='Consistency', realism='Realism', aesthetic='Aesthetic Quality')
  try:
    return replies.bare_digits(reply, list(labels), 0, 2)
  except Unreadable:
    return replies.labelled(reply, labels, 0, 2)


def wise_measures(item: Item, scores: Scores) -> Measures:
  """WiScore = (0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2, or the verdict."""
  if 'score' in scores:
    return dict(score=tally(scores['score']))
  found = pick(scores, 'consistency', 'realism', 'aesthetic')
  return dict(score=tally(found and (0.7 * found[0] + 0.2 * found[1] + 0.1 * found[2]) / 2))


def wise_summary(pool: Pool, ranges: dict[str, tuple[int, int, float]]) -> Table:
  """The mean of each group, and ``overall`` by the weights of the protocol."""
  table = {group: pool.mean('score', [group]) for group in ranges if group in pool.groups}
  shares = [ranges[group][2] for group in table]
  return dict(table, overall=average(table.values(), shares))
