"""Editing: ImgEdit, GEdit, KRIS and RISE (L042, L103, L130, L148)."""

import functools
import math
import re
from collections.abc import Mapping
from collections.abc import Sequence

from jaxgen.evaluation.benchmarks import replies
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import pick
from jaxgen.evaluation.benchmarks.base import Question
from jaxgen.evaluation.benchmarks.base import Scores
from jaxgen.evaluation.benchmarks.base import Unreadable
from jaxgen.evaluation.benchmarks.files import choice
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.files import field
from jaxgen.evaluation.benchmarks.tallies import average
from jaxgen.evaluation.benchmarks.tallies import Measures
from jaxgen.evaluation.benchmarks.tallies import Pool
from jaxgen.evaluation.benchmarks.tallies import Table
from jaxgen.evaluation.benchmarks.tallies import tally
from jaxgen.evaluation.benchmarks.tallies import tally_of

# Edit type -> the three criteria that the judge scores from 1 to 5.
IMGEDIT = {
    'add': ('Prompt Compliance', 'Visual Naturalness', 'Physical & Detail Coherence'),
    'remove': ('Prompt Compliance', 'Visual Naturalness', 'Physical & Detail Integrity'),
    'replace': ('Prompt Compliance', 'Visual Naturalness', 'Physical & Detail Integrity'),
    'adjust': ('Prompt Compliance', 'Visual Seamlessness', 'Physical & Detail Fidelity'),
    'style': ('Style Fidelity', 'Content Preservation', 'Rendering Quality'),
    'action': ('Action Fidelity', 'Identity Preservation', 'Visual & Anatomical Coherence'),
    'extract': ('Object Identity', 'Mask Precision', 'Visual Quality'),
    'background': ('Instruction Compliance', 'Visual Seamlessness', 'Physical Consistency'),
    'compose': ('Instruction Compliance', 'Visual Naturalness',
                'Physical Consistency & Fine Detail')}
GEDIT = ('background_change', 'color_alter', 'material_alter', 'motion_change', 'ps_human',
         'style_change', 'subject-add', 'subject-remove', 'subject-replace', 'text_change',
         'tone_transfer')
KRIS = {
    'attribute': ('count_change', 'color_change', 'size_adjustment', 'part_completion',
                  'anomaly_correction'),
    'spatial': ('viewpoint_change', 'position_movement'),
    'temporal': ('temporal_prediction',),
    'social': ('humanities', 'practical_knowledge'),
    'natural': ('biology', 'chemistry', 'geography', 'medicine', 'mathematics', 'physics'),
    'logical': ('abstract_reasoning', 'rule-based_reasoning'),
    'decomposition': ('multi-element_composition', 'multi-instruction_execution')}
KNOWING = ('social', 'natural', 'logical')  # categories that the judge scores for knowledge, too
KRIS_LEVELS = {'factual': ('attribute', 'spatial', 'temporal'),
               'conceptual': ('social', 'natural'), 'procedural': ('logical', 'decomposition')}
GUESSES = range(11)  # what the official scripts draw from where a reply cannot be read (L149)


def imgedit(data: Data) -> list[Item]:
  """737 single-turn edits of nine types."""
  items = []
  for key, record in data.json('basic_edit.json', kind=dict).items():
    where = f'basic_edit.json[{key!r}]'
    source = data.image(f'singleturn/{field(record, "id", where)}')
    kind = choice(field(record, 'edit_type', where), IMGEDIT, where)
    items.append(Item(key, kind, field(record, 'prompt', where),
                      (f'{key}.png',), source=(source,)))
  return items


def imgedit_ask(item: Item, folder: str) -> Sequence[Question]:
  """One call with the original and the edited image."""
  labels = {str(number): label for number, label in enumerate(IMGEDIT[item.group])}
  return [Question('scores', f'imgedit_{item.group}', dict(prompt=item.text),
                   (item.source[0].path, f'{folder}/{item.files[0]}'),
                   (*labels, 'official'), parse=functools.partial(_imgedit, labels))]


def _imgedit(labels: Mapping[str, str], reply: str) -> Scores:
  """The three scores, and what the official script makes of the reply: the mean of any digits."""
  parts = [line.strip().split(': ') for line in reply.splitlines()]
  digits = [int(line[1]) for line in parts if len(line) == 2 and line[1].isdigit()]
  official = round(sum(digits) / len(digits), 2) if digits else None
  try:
    return replies.labelled(reply, labels, 1, 5) | dict(official=official)
  except Unreadable:
    if official is None:
      raise
    return dict.fromkeys(labels, None) | dict(official=official)


def imgedit_measures(item: Item, scores: Scores) -> Measures:
  """The mean of the three criteria; one that is missing makes the reply a missing one."""
  found = pick(scores, '0', '1', '2')
  return {'score': tally(found and sum(found) / 3), 'official': tally(scores['official'])}


def imgedit_summary(pool: Pool) -> Table:
  """The mean of each type; ``overall`` is their mean, ``samples`` that over all edits.

  The official scripts end at the types, whose means count replies with fewer than three digits.
  """
  types = {name: pool.mean('score', [name]) for name in IMGEDIT if name in pool.groups}
  official = {f'official/{name}': pool.mean('official', [name]) for name in types}
  return dict(types, overall=average(types.values()), samples=pool.mean('score'), **official)


def gedit(data: Data, language: str) -> list[Item]:
  """606 edits of 11 groups in each language.

  The parquet files of the hub have images and both languages; ``gedit_edit.json`` of UniWorld has
  the English instructions, with images beside it.
  """
  if (data.folder / 'gedit_edit.json').exists():
    if language != 'en':
      data.path('*.parquet')
    return [_gedit_item(field(record, 'edit_type', key), language, key,
                        field(record, 'prompt', key), data.image(field(record, 'id', key)), None)
            for key, record in data.json('gedit_edit.json', kind=dict).items()]
  columns = ('task_type', 'key', 'instruction', 'instruction_language', 'input_image_raw',
             'Intersection_exist')
  return [_gedit_item(row['task_type'], language, row['key'], row['instruction'],
                      row['input_image_raw'][0], row['Intersection_exist'])
          for row in data.rows(columns, ['input_image_raw'])
          if row['instruction_language'] == language]


def _gedit_item(group, language, key, text, source, intersection) -> Item:
  name = f'fullset/{choice(group, GEDIT, key)}/{language}/{key}'
  return Item(key, group, text, (f'{name}.png',), source=(source,),
              beside={f'{name}_SRCIMG.png': source}, facts=dict(intersection=intersection))


def gedit_ask(item: Item, folder: str) -> Sequence[Question]:
  """Semantic consistency from both images, perceptual quality from the edited one alone."""
  source, edited = item.source[0].path, f'{folder}/{item.files[0]}'
  return [
      Question('sc', 'gedit_consistency', dict(instruction=item.text), (source, edited),
               ('success', 'overedit'), parse=lambda reply: replies.score_list(
                   reply, ('success', 'overedit'), 0, 10)),
      Question('pq', 'gedit_quality', {}, (edited,), ('natural', 'artefacts'),
               parse=lambda reply: replies.score_list(reply, ('natural', 'artefacts'), 0, 10))]


def gedit_measures(item: Item, scores: Scores) -> Measures:
  """Minima of the two pairs and the root of their product.

  Under ``official/`` a pair that is missing counts as the official script has it: a random integer
  from 0 to 10, of which this is the expectation.
  """
  pairs = pick(scores, 'success', 'overedit'), pick(scores, 'natural', 'artefacts')
  consistency, quality = (pair and min(pair) for pair in pairs)
  both = None if consistency is None or quality is None else math.sqrt(consistency * quality)
  measures = dict(SC=tally(consistency), PQ=tally(quality), O=tally(both))
  measures['official/O'] = tally(guessed(consistency, quality))
  if item.facts['intersection']:
    measures |= {f'intersection/{name}': value for name, value in measures.items()
                 if name in ('SC', 'PQ', 'O')}
  return measures


def guessed(first: float | None, second: float | None) -> float:
  """The expectation of sqrt(first second) where a missing score is a random one of ``GUESSES``."""
  firsts, seconds = (GUESSES if value is None else [value] for value in (first, second))
  return sum(math.sqrt(a * b) for a in firsts for b in seconds) / (len(firsts) * len(seconds))


def gedit_summary(pool: Pool) -> Table:
  """G_SC, G_PQ and G_O are means over the groups of the means of each, not over samples."""
  groups = [group for group in GEDIT if group in pool.groups]
  table = {f'G_{name}': average(pool.mean(name, [group]) for group in groups)
           for name in ('SC', 'PQ', 'O')}
  table |= {f'{group}/{name}': pool.mean(name, [group]) for group in groups
            for name in ('SC', 'PQ', 'O')}
  for name in ('intersection/SC', 'intersection/PQ', 'intersection/O', 'official/O'):
    own = [group for group in groups if pool.has(name, [group])]
    if own:
      table[name.replace('/', '/G_')] = average(pool.mean(name, [group]) for group in own)
  return table


def kris(data: Data) -> list[Item]:
  """1267 edits that need knowledge, of 20 types; some have several input images."""
  items = []
  for record in data.json('final_data.json'):
    where = 'final_data.json'
    kind, number = field(record, 'type', where), field(record, 'id', where)
    choice(kind, [name for names in KRIS.values() for name in names], where)
    images = field(record, 'ori_img', where, (str, list))
    images = [images] if isinstance(images, str) else images
    items.append(Item(
        f'{kind}/{number}', kind, field(record, 'ins_en', where), (f'{kind}/{number}.png',),
        source=tuple(data.image(f'{kind}/{image}') for image in images),
        facts=dict(explanation=record.get('explain_en') or '',
                   knowledge=any(kind in KRIS[category] for category in KNOWING))))
  return items


def kris_ask(item: Item, folder: str) -> Sequence[Question]:
  """Scores from 1 to 5 of one call; of some types for knowledge, too."""
  knowing = item.facts['knowledge']
  names = ('consistency', 'quality', 'instruction', *(('knowledge',) if knowing else ()))
  return [Question('scores', 'kris_knowledge' if knowing else 'kris',
                   dict(instruction=item.text, explanation=item.facts['explanation']),
                   (*(image.path for image in item.source), f'{folder}/{item.files[0]}'), names,
                   parse=functools.partial(_kris, names))]


def _kris(names: Sequence[str], reply: str) -> Scores:
  found = replies.dictionary(replies.json_in(reply))
  return {name: replies.number(found.get(f'{name}_score'), 1, 5) for name in names}


def kris_measures(item: Item, scores: Scores) -> Measures:
  """All scores of an edit as percentages, (s - 1) 25."""
  found = {name: None if value is None else (value - 1) * 25 for name, value in scores.items()}
  return dict(all=tally_of(found.values()), **{name: tally(value) for name, value in found.items()})


def kris_summary(pool: Pool) -> Table:
  """Means over all scores of the categories, of three levels of them, and over all."""
  table = {}
  for name, types in KRIS.items():
    if pool.has('all', types):
      table[name] = pool.mean('all', types)
  for level, names in KRIS_LEVELS.items():
    types = [kind for name in names for kind in KRIS[name]]
    if pool.has('all', types):
      table[level] = pool.mean('all', types)
  return dict(table, overall=pool.mean('all'), **{
      name: pool.mean(name) for name in ('consistency', 'quality', 'instruction', 'knowledge')
      if name in pool.names})


def rise(data: Data) -> list[Item]:
  """360 edits that need reasoning, of four categories."""
  items = []
  for record in data.json('datav2_total_w_subtask.json', 'data_total.json'):
    where = f'{data.folder}: {record.get("index") if isinstance(record, dict) else record}'
    category, key = field(record, 'category', where), field(record, 'index', where)
    reference = record.get('reference_img')
    items.append(Item(
        key, category, field(record, 'instruction', where), (f'images/{category}/{key}.png',),
        source=(data.image(field(record, 'image', where)),),
        facts=dict(reference=record.get('reference') or record.get('reference_txt') or '',
                   reference_image=data.image(reference).path if reference else '',
                   free=bool(record.get('consistency_free')),
                   free_listed='consistency_free' in record)))
  listed = any(item.facts['free_listed'] for item in items)
  for item in items:
    item.facts['free_listed'] = listed
  return items


def rise_ask(item: Item, folder: str) -> Sequence[Question]:
  """Consistency unless the edit is free of it, reasoning, and quality unless it is logical."""
  edited, facts = f'{folder}/{item.files[0]}', item.facts
  logical = item.group == 'logical_reasoning'
  least, most = (0, 1) if logical else (1, 5)
  shown = facts['reference_image'] or item.source[0].path
  fields = dict(instruction=item.text, reference=facts['reference'] or 'the first image')
  asked = [('reasoning', (shown, edited))]
  if not facts['free']:
    asked.insert(0, ('consistency', (item.source[0].path, edited)))
  if not logical:
    asked.append(('quality', (edited,)))
  return [Question(name, f'rise_{name}{"_logical" if logical else ""}', fields, images, (name,),
                   parse=lambda reply, name=name: {
                       name: replies.last_score(reply, 'Final Score', least, most)}, side=768)
          for name, images in asked]


def rise_measures(item: Item, scores: Scores) -> Measures:
  """Weighted scores and whether all parts are perfect.

  ``official/``: where any edit of the file is free of consistency, the official script takes the
  weights of such edits for all; edits free of it and replies that cannot be read are never
  accurate.
  """
  logical = item.group == 'logical_reasoning'
  found = {name: value if value is None or not logical else 4 * min(value, 1) + 1
           for name, value in scores.items()}
  known = None not in found.values()
  free = item.facts['free']
  perfect = known and all(value == 5 for value in found.values())
  official = _rise_score(found, logical, free or item.facts['free_listed']) if known else None
  return {
      'score': tally(_rise_score(found, logical, free) if known else None),
      'accuracy': tally(perfect if known else None), 'official/score': tally(official),
      'official/accuracy': tally(float(perfect and not free)),
      **{name: tally(value) for name, value in found.items()}}


def _rise_score(found: Mapping[str, float], logical: bool, free: bool) -> float:
  if logical:
    score = 0.3 * found['consistency'] + 0.7 * found['reasoning']
  elif free:
    score = 0.8 * found['reasoning'] + 0.2 * found['quality']
  else:
    score = 0.3 * found['consistency'] + 0.5 * found['reasoning'] + 0.2 * found['quality']
  return max(score / 2, 1.0) if found['reasoning'] == 1 else score


def rise_summary(pool: Pool) -> Table:
  """Scores as 25 (s - 1) and accuracies x 100, over all edits and by category."""
  table = {}
  for name in ('score', 'accuracy', 'official/score', 'official/accuracy'):
    for group in (None, *sorted(pool.groups)):
      mean = pool.mean(name, group and [group])
      scaled = mean._replace(value=(mean.value - 1) * 25) if 'score' in name else mean.times(100)
      table[name if group is None else f'{name}/{re.sub("_reasoning$", "", group)}'] = scaled
  return table
