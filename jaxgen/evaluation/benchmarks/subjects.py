"""References and subjects: OmniContext, DreamBench and DreamBench++ (L042, L044, L076, L079)."""

import json
import math
from collections.abc import Sequence

from jaxgen.core.texts import decoded
from jaxgen.data.sample import FileImage
from jaxgen.evaluation.benchmarks import replies
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import Question
from jaxgen.evaluation.benchmarks.base import Scores
from jaxgen.evaluation.benchmarks.editing import guessed
from jaxgen.evaluation.benchmarks.files import choice
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.files import field
from jaxgen.evaluation.benchmarks.tallies import average
from jaxgen.evaluation.benchmarks.tallies import Measures
from jaxgen.evaluation.benchmarks.tallies import Pool
from jaxgen.evaluation.benchmarks.tallies import Table
from jaxgen.evaluation.benchmarks.tallies import tally
from jaxgen.evaluation.benchmarks.tallies import tally_of

# In the order of the columns of the papers' tables.
OMNICONTEXT = ('single_character', 'single_object', 'multi_character', 'multi_object',
               'multi_character_object', 'scene_character', 'scene_object',
               'scene_character_object')
CATEGORIES = ('animal', 'human', 'object', 'style')
# Kind of prompt of DreamBench++ -> its numbers.
PROMPTS = {'photorealistic': range(0, 4), 'style_transfer': range(4, 7),
           'imaginative': range(7, 9)}
JUDGED = 3  # times that DreamBench++ asks each question


def omnicontext(data: Data) -> list[Item]:
  """400 requests with one or more reference images, of eight types."""
  columns = ('key', 'task_type', 'instruction', 'instruction_language', 'input_images')
  return [Item(row['key'], choice(row['task_type'], OMNICONTEXT, row['key']), row['instruction'],
               (f'fullset/{row["task_type"]}/{row["key"]}.png',),
               reference=tuple(row['input_images']))
          for row in data.rows(columns, ['input_images'])]


def omnicontext_ask(item: Item, folder: str) -> Sequence[Question]:
  """Prompt following and subject consistency, each from all inputs and the output."""
  images = (*(image.path for image in item.reference), f'{folder}/{item.files[0]}')
  return [Question(name, f'omnicontext_{name}', dict(instruction=item.text), images, (name,),
                   parse=lambda reply, name=name: replies.score_list(reply, (name,), 0, 10))
          for name in ('pf', 'sc')]


def omnicontext_measures(item: Item, scores: Scores) -> Measures:
  """PF, SC and the root of their product; ``official/`` as for GEdit, since both guess (L149)."""
  prompt, subject = scores['pf'], scores['sc']
  both = None if prompt is None or subject is None else math.sqrt(prompt * subject)
  return {'PF': tally(prompt), 'SC': tally(subject), 'O': tally(both),
          'official/O': tally(guessed(prompt, subject))}


def omnicontext_summary(pool: Pool) -> Table:
  """The mean of each type; ``overall``, PF and SC are means over the types."""
  types = [name for name in OMNICONTEXT if name in pool.groups]
  table = {name: pool.mean('O', [name]) for name in types}
  for name, shown in (('O', 'overall'), ('PF', 'PF'), ('SC', 'SC'),
                      ('official/O', 'official/overall')):
    table[shown] = average(pool.mean(name, [group]) for group in types)
  return table


def dreambench(data: Data, file: str) -> list[Item]:
  """750 prompts with the fixed references of UNO: one subject, or two."""
  items = []
  for number, record in enumerate(data.json(file)):
    where = f'{file}[{number}]'
    paths = field(record, 'image_paths', where, list)
    items.append(Item(
        f'{number}', 'all', field(record, 'prompt', where), (f'{number}_0.png',),
        reference=tuple(data.image(path.removeprefix('./')) for path in paths),
        beside={f'{number}_0.json': json.dumps(record)}))
  return items


def dreambench_plus(data: Data) -> list[Item]:
  """1350 prompts: nine for each of 150 images of four categories."""
  items = []
  for file in sorted(data.path('captions').glob('*/*.txt')):
    subject, *prompts = [line.strip() for line in decoded(
        file.read_bytes(), str(file)).splitlines() if line.strip()]
    category, number = choice(file.parent.name, CATEGORIES, str(file)), file.stem
    source = data.image(f'images/{category}/{number}.jpg')
    live = 'live_subject_' if category in ('animal', 'human') else ''
    collection = f'{live}{category}_{number}_{subject.lower().replace(" ", "_")}'
    items += [_plus_item(collection, category, index, prompt, source)
              for index, prompt in enumerate(prompts)]
  return items


def _plus_item(collection: str, category: str, index: int, prompt: str, source: FileImage) -> Item:
  name = f'{collection}/{index}_0'
  return Item(f'{collection}-{index}', category, prompt, (f'tgt_image/{name}.jpg',),
              reference=(source,), beside={f'src_image/{name}.jpg': source,
                                           f'text/{name}.txt': prompt, 'negative_prompt.txt': ''},
              facts=dict(index=index))


def dreambench_plus_ask(item: Item, folder: str) -> Sequence[Question]:
  """Concept preservation and prompt following, three times each."""
  image = f'{folder}/{item.files[0]}'
  rubric = 'dreambench_plus_' + ('style' if item.group == 'style' else 'subject')
  asked = [('cp', rubric, {}, (item.reference[0].path, image)),
           ('pf', 'dreambench_plus_text', dict(prompt=item.text), (image,))]
  return [Question(own, rubric, fields, images, (own,), parse=lambda reply, own=own: (
              replies.labelled(reply, {own: 'Score'}, 0, 4)))
          for name, rubric, fields, images in asked for turn in range(JUDGED)
          for own in [f'{name}/{turn}']]


def dreambench_plus_measures(item: Item, scores: Scores) -> Measures:
  """Scores / 4, all three calls pooled; ``CP/official/..`` by any name that holds the category."""
  measures = {}
  for name in ('cp', 'pf'):
    own = [score for key, score in scores.items() if key.startswith(name)]
    measures[name.upper()] = tally_of(score and score / 4 for score in own)
  for kind, numbers in PROMPTS.items():
    if item.facts['index'] in numbers:
      measures[f'PF/{kind}'] = measures['PF']
  for category in CATEGORIES:
    if category in item.key:
      measures[f'CP/official/{category}'] = measures['CP']
  return measures


def dreambench_plus_summary(pool: Pool) -> Table:
  """CP by category, PF by kind of prompt, both overall, and their product.

  The official script takes every item whose name holds the word for one of a category, so that a
  style of an animal counts as an animal, too (``CP/official/..``).
  """
  table = {f'CP/{name}': pool.mean('CP', [name]) for name in CATEGORIES if name in pool.groups}
  table |= {f'PF/{name}': pool.mean(f'PF/{name}') for name in PROMPTS if f'PF/{name}' in pool.names}
  table |= {'CP': pool.mean('CP'), 'PF': pool.mean('PF')}
  table['CP x PF'] = table['CP'].times(table['PF'])
  return table | {name: pool.mean(name) for name in pool.names if name.startswith('CP/official/')}
