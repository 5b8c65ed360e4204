"""Interleaved: CoMM, InterleavedBench, OpenING, storyboards, how-to documents (L041, L126-L131).

The model decides itself when it draws, so what is drawn is a document of texts and images. The
items say what stands before it; ``documents`` writes it as the official scorers read it.
"""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.evaluation.benchmarks import replies
from jaxgen.evaluation.benchmarks.base import Item
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

PARTS = 'parts.json'  # of a document; it is there when the document is whole
COMM = ('style_consistency', 'entity_consistency', 'trend_consistency', 'overall_consistency',
        'completeness', 'image_quality', 'text_fidelity')
# Task of CoMM -> the criteria that its judge scores.
COMM_TASKS = {'task1': ('completeness', 'text_fidelity'), 'task2': (*COMM[:4], *COMM[5:]),
              'task3': COMM, 'task4': COMM}
ASPECTS = ('text_quality', 'perceptual_quality', 'image_coherence', 'text_image_coherence',
           'helpfulness')
TEXT_ASPECTS = ('text_quality', 'text_image_coherence')
OPENING = ('Completeness', 'Content Quality', 'Content Richness', 'Correctness',
           'Human Preference Alignment', 'Image-Text Coherency', 'Multi-step Consistency')
HOW_TO = ('text_completeness', 'image_completeness', 'image_coherence', 'image_quality',
          'image_text_coherence')


def comm(data: Data) -> list[Item]:
  """Documents of the test split as requests of the four tasks: ``test.json``, one object for each.

  Each has ``id``, ``task`` (task1 images to texts, task2 texts to images, task3 continuation,
  task4 question to document), ``model_input`` and ``images``.
  """
  items = []
  for number, record in enumerate(data.json('test.json')):
    where = f'test.json[{number}]'
    task, key = choice(field(record, 'task', where), COMM_TASKS, where), field(record, 'id', where)
    items.append(_document(f'{key}_{task}', task, field(record, 'model_input', where),
                           data, record.get('images', [])))
  return items


def comm_ask(item: Item, folder: str) -> Sequence[Question]:
  """One call for each document; what its task does not score is not asked."""
  names = COMM_TASKS[item.group]
  return [_about(item, folder, 'comm', names, _comm)]


def _comm(names: Sequence[str], reply: str) -> Scores:
  """Scores of the JSON of CoMM's rubrics; null and "NA" are missing."""
  scores = replies.dictionary(replies.dictionary(replies.json_in(reply)).get('scores'))
  coherence = scores.get('Image_Coherence') or {}
  found = dict(coherence.get('overall_score') or {})
  for name, theirs in (('completeness', 'Completeness'), ('image_quality', 'Image_Quality'),
                       ('text_fidelity', 'Text_Fidelity')):
    found[name] = replies.dictionary(scores.get(theirs) or {}).get('Score')
  return {name: None if found.get(name) in (None, 'NA') else replies.number(found[name], 0, 10)
          for name in names}


def comm_measures(item: Item, scores: Scores) -> Measures:
  """Each criterion; under ``official/`` one that is null counts 0, unless all of them are."""
  measures = {name: tally(value) for name, value in scores.items()}
  if any(value is not None for value in scores.values()):
    measures |= {f'official/{name}': tally(value or 0.0) for name, value in scores.items()}
  return measures


def comm_summary(pool: Pool) -> Table:
  """The mean of each criterion, by task and over all documents."""
  table = {name: pool.mean(name) for name in (*COMM, *(f'official/{name}' for name in COMM))
           if name in pool.names}
  return table | {f'{task}/{name}': pool.mean(name, [task]) for task in COMM_TASKS
                  for name in COMM if pool.has(name, [task])}


def interleavedbench(data: Data) -> list[Item]:
  """815 instances of 10 use cases."""
  items = []
  for record in data.json('interleaved_bench.json'):
    where = f'interleaved_bench.json: {field(record, "id", "interleaved_bench.json")}'
    turns = field(record, 'conversations', where, list)
    text = next((field(turn, 'value', where) for turn in turns
                 if field(turn, 'from', where) == 'human'), '')
    items.append(_document(field(record, 'id', where), field(record, 'task_name', where),
                           text.replace('<image>', '').strip(), data, record.get('image') or []))
  return items


def interleavedbench_ask(item: Item, folder: str) -> Sequence[Question]:
  """One call for each document; tasks that ask for no text have no scores of text."""
  without_text = re.search(r'edit|subject', item.group)
  names = [name for name in ASPECTS if not (without_text and name in TEXT_ASPECTS)]
  return [_about(item, folder, 'interleavedbench', names, functools.partial(_flat, 0, 5))]


def aspects_summary(pool: Pool) -> Table:
  """The mean of each score over the documents that have it, and ``overall``, the mean of those."""
  table = {name: pool.mean(name) for name in pool.names}
  return dict(table, overall=average(table.values()))


def opening(data: Data) -> list[Item]:
  """2160 instances of the test split of 56 tasks."""
  items = []
  for record in data.lines('test_data.jsonl'):
    where = f'test_data.jsonl: {field(record, "total_uid", "test_data.jsonl")}'
    turns = field(record, 'conversations', where, list)
    given = field(turns[0] if turns else {}, 'input', where, list)
    texts = [step.get('text') or '' for step in given]
    images = [step['image'] for step in given if step.get('image')]
    items.append(_document(
        field(record, 'total_uid', where), str(record.get('meta_task_name') or 'all'),
        re.sub(r'<\w+>', '', ' '.join(texts)).strip(), data, images, record=record))
  return items


def opening_ask(item: Item, folder: str) -> Sequence[Question]:
  """The seven criteria in one call."""
  return [_about(item, folder, 'opening', OPENING, _opening)]


def _opening(names: Sequence[str], reply: str) -> Scores:
  scores = replies.dictionary(replies.dictionary(replies.json_in(reply)).get('scores'))
  return {name: replies.number(replies.dictionary(scores.get(name)).get('Score'), 0, 10)
          for name in names}


def how_to(data: Data) -> list[Item]:
  """Guides to write: ``prompts.jsonl`` with ``id``, ``title``, ``category`` and maybe ``image``.

  The form of Cooking-200, Cooking-200-Text-Input and How-to-500, whose files are not published
  (L127).
  """
  items = []
  for number, record in enumerate(data.lines('prompts.jsonl')):
    where = f'prompts.jsonl:{number + 1}'
    images = [record['image']] if record.get('image') else []
    items.append(_document(field(record, 'id', where), str(record.get('category') or 'all'),
                           field(record, 'title', where), data, images))
  return items


def how_to_ask(item: Item, folder: str) -> Sequence[Question]:
  """The paper's five criteria, from 1 to 5, in one call."""
  return [_about(item, folder, 'how_to', HOW_TO, functools.partial(_flat, 1, 5))]


def storyboard(data: Data) -> list[Item]:
  """Stories of 2 to 4 images in one pass: ``prompts.jsonl`` with ``id``, ``prompt``, ``outputs``
  and ``references`` (L041, L042)."""
  items = []
  for number, record in enumerate(data.lines('prompts.jsonl')):
    where = f'prompts.jsonl:{number + 1}'
    key, outputs = field(record, 'id', where), field(record, 'outputs', where, int)
    references = field(record, 'references', where, list)
    items.append(Item(
        key, 'all', field(record, 'prompt', where),
        tuple(f'{key}_{output}.png' for output in range(outputs)), outputs=outputs,
        reference=tuple(data.image(path) for path in references)))
  return items


def storyboard_ask(item: Item, folder: str) -> Sequence[Question]:
  """Identity from references and outputs, temporal consistency from the outputs (L040)."""
  outputs = tuple(f'{folder}/{file}' for file in item.files)
  shown = dict(identity=(*(image.path for image in item.reference), *outputs), consistency=outputs)
  return [Question(name, f'storyboard_{name}', dict(instruction=item.text), images, (name,),
                   parse=lambda reply, name=name: replies.score_list(reply, (name,), 0, 10))
          for name, images in shown.items()]


def document_files(item: Item, kind: str, parts: Sequence[str | int]) -> dict[str, str]:
  """The files of a document that was drawn, beside its images.

  Args:
    item: whose document it is.
    kind: ``comm`` and ``opening`` have a form of their own beside ours.
    parts: texts, and numbers of images, which are called ``image_name``.

  Returns:
    path -> text. ``PARTS`` is ours.
  """
  drawn = [part for part in parts if isinstance(part, int)]
  short = {part: image_name(item, kind, part).rpartition('/')[2] for part in drawn}
  files = {f'{item.key}/{PARTS}': json.dumps(list(parts), indent=1, ensure_ascii=False)}
  if kind == 'comm':
    files[f'{item.key}/results.json'] = json.dumps(dict(
        model_input=item.text,
        model_output=' '.join('<IMAGE>' if isinstance(part, int) else part for part in parts),
        input_image_list=[image.path for image in item.source], output_gt_image_list=[],
        prediction_image_list=list(short.values())), indent=1, ensure_ascii=False)
  if kind == 'opening':
    steps = [dict(text=part, image=None) if isinstance(part, str) else
             dict(text='<image>', image=f'./{short[part]}') for part in parts]
    record = item.facts['record']
    files[f'{item.key}.json'] = json.dumps(
        dict(record, conversations=[record['conversations'][0], dict(output=steps)]), indent=1,
        ensure_ascii=False)
  return files


def image_name(item: Item, kind: str, number: int) -> str:
  """The path of an image of a document."""
  if kind == 'opening':
    return f'{item.key}-o-{number}.jpg'
  return f'{item.key}/predict_{number}.jpg' if kind == 'comm' else f'{item.key}/{number}.png'


def _document(key: str, group: str, text: str, data: Data, images: Sequence[str],
              **facts: Any) -> Item:
  return Item(key, group, text, (), source=tuple(data.image(path) for path in images),
              facts=facts)


def _about(item: Item, folder: str, rubric: str, names: Sequence[str], parse) -> Question:
  """A question about the document that was drawn for an item."""
  text, images = drawn_document(item, folder, rubric)
  return Question('scores', rubric, dict(
      instruction=item.text, document=text, inputs=str(len(item.source)),
      criteria=', '.join(names)), (*(image.path for image in item.source), *images), tuple(names),
                  parse=functools.partial(parse, tuple(names)), side=512)


def drawn_document(item: Item, folder: str, kind: str) -> tuple[str, list[str]]:
  """The text of a document, with ``<image n>`` in the places of its images, and their paths."""
  parts: list[Any] = json.loads(_read(f'{folder}/{item.key}/{PARTS}'))
  paths = [f'{folder}/{image_name(item, kind, part)}' for part in parts if isinstance(part, int)]
  return '\n'.join(f'<image {part + 1}>' if isinstance(part, int) else part
                   for part in parts), paths


def _read(path: str) -> bytes:
  try:
    return epath.Path(path).read_bytes()
  except OSError:
    raise user_error(path, None, 'no such document; draw it first') from None


def _flat(least: float, most: float, names: Sequence[str], reply: str) -> Scores:
  """Scores of ``{"scores": {name: number}}``."""
  value = replies.dictionary(replies.json_in(reply))
  scores = value.get('scores', value)
  if not isinstance(scores, dict):
    raise Unreadable('no object of scores')
  return {name: replies.number(scores.get(name), least, most) for name in names}
