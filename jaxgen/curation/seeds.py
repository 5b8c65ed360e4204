"""Stages that grow a tree of requests, and have them answered in texts and images (L122).

DuetGen (section 3.1): domains, sub-categories, about ten seeds of each, about ten instructions of
each seed; whoever expands is told of the category and of its siblings, so that branches do not grow
into each other. Prompts are ours, the paper prints none.
"""

import functools
import re
from collections.abc import Iterator
from collections.abc import Sequence

from jaxgen.curation import answers
from jaxgen.curation import readers
from jaxgen.curation import slots
from jaxgen.curation.domains import categories
from jaxgen.curation.domains import DOMAINS
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record

SEEDS = (
    'People ask an assistant that answers in texts and pictures. Write {count} different requests '
    'of {category} (domain: {domain}) whose answer needs several pictures, each in at most 40 '
    'words. Other categories of the domain have requests of their own, keep out of them: '
    '{siblings}.\nAnswer with a JSON list of {count} strings.')
EXPAND = (
    'This is a request to an assistant that answers in texts and pictures: {seed}\n'
    'Write {count} further requests of {category} (domain: {domain}) that differ from it and from '
    'each other in subject, detail and wording, each in at most 40 words. Other categories of the '
    'domain have requests of their own, keep out of them: {siblings}.\n'
    'Answer with a JSON list of {count} strings.')
ANSWER = (
    'Answer this request in {least} to {most} steps, each of one to four sentences with one '
    'picture: {instruction}\n'
    'Of each picture write what it shows, for a painter who knows nothing else.\n'
    'Answer with a JSON list: [{{"text": "...", "picture": "..."}}]')
_SMALL = re.compile(r'\b(?:a|an|the|of|for|to|in|on|with|and|my|me|i|how|do|can|you|please|show)\b')


def read_seeds(path: str) -> Sequence[Record]:
  """Rows of a table with ``domain``, ``category`` and ``seed``; without a path the 151 categories
  of ``domains``, whose seeds are then written by a model."""
  if path:
    return readers.rows(path)
  return [record.having(domain=domain, category=category) for record, (domain, category) in zip(
      readers.listed(*(f'{domain}: {category}' for domain, category in categories()))(''),
      categories())]


def seeded(record: Record, *, model: Model, count: int = 10) -> Iterator[Record | Dropped]:
  """Has seeds of a category written; a record that has its ``seed`` passes.

  Args:
    record: with ``domain``, a key of ``DOMAINS`` or another one, and ``category``.
    model: of language.
    count: seeds of a category.
  """
  if record.fields.get('seed'):
    yield record
  else:
    yield from _written(record, model, SEEDS, count, 'seed')


def expanded(record: Record, *, model: Model, count: int = 10) -> Iterator[Record | Dropped]:
  """Has instructions written after a seed; they get ``instruction`` and ``key``, their words in
  alphabetical order without small ones, for ``unrepeated``.

  Args:
    record: with ``domain``, ``category`` and ``seed``.
    model: of language.
    count: instructions of a seed.
  """
  for made in _written(record, model, EXPAND, count, 'instruction'):
    if isinstance(made, Record):
      words = _SMALL.sub(' ', made['instruction'].casefold())
      made = made.having(key=' '.join(sorted(set(re.findall(r'\w+', words)))))
    yield made


def unrepeated(records: Sequence[Record]) -> Iterator[Record | Dropped]:
  """Keeps the first of the records of one key: for ``Group``."""
  yield records[0]
  yield from (record.drop('said before') for record in records[1:])


def answered(record: Record, *, model: Model, least: int = 2, most: int = 6) -> Record | Dropped:
  """Has an answer written in steps, with a description of the picture of each.

  Args:
    record: with ``instruction``; it gets ``steps``, [text, picture] each.
    model: of language.
    least, most: steps.
  """
  request = Request(ANSWER.format(instruction=record['instruction'], least=least, most=most))
  found = answers.answer(model, request, functools.partial(_steps, least=least, most=most))
  if found.error:
    return record.drop('no answer', error=found.error)
  return record.having(steps=found.value)


def drawn(record: Record, *, model: Model) -> Record | Dropped:
  """Has the pictures of an answer drawn, each with the one before in view.

  Args:
    record: with ``instruction`` and ``steps``; it gets ``images`` and ``turns``, as
      ``dialogues.dialogue_sample`` takes them.
    model: draws.
  """
  images: list[bytes] = []
  for _, picture in record['steps']:
    reply, = model.ask([Request(picture, tuple(images[-1:]))])
    if reply.error or not reply.images:
      return record.drop('not drawn', error=reply.error)
    images.append(reply.images[0])
  said = '\n\n'.join(f'{text}\n\n{slots.slot("", number)}'
                     for number, (text, _) in enumerate(record['steps'], 1))
  return record.having(images=images, turns=[['user', record['instruction']], ['assistant', said]])


def _written(record: Record, model: Model, prompt: str, count: int, field: str
             ) -> Iterator[Record | Dropped]:
  """Children with one text each in a field."""
  siblings = [other for other in DOMAINS.get(record['domain'], ()) if other != record['category']]
  text = prompt.format(count=count, domain=record['domain'], category=record['category'],
                       siblings=', '.join(siblings), seed=record.fields.get('seed'))
  found = answers.answer(model, Request(text), functools.partial(_texts, count=count))
  if found.error:
    yield record.drop(f'no {field}', error=found.error)
    return
  for number, each in enumerate(found.value):
    yield record.child(f'{number}', **{field: each}).noting(
        domain=record['domain'], category=record['category'])


def _texts(text: str, count: int) -> list[str]:
  found = answers.value_of(text, list)
  if len(found) != count or not all(isinstance(each, str) for each in found):
    raise ValueError(f'it must be a list of {count} strings, and has {len(found)} items')
  found = [' '.join(each.split()) for each in found]
  if len({each.casefold() for each in found}) < count:
    raise ValueError('some requests are the same')
  if any(not 3 <= slots.words(each) <= 60 for each in found):
    raise ValueError('a request must have 3 to 40 words')
  return found


def _steps(text: str, least: int, most: int) -> list[tuple[str, str]]:
  found = answers.value_of(text, list)
  if not least <= len(found) <= most:
    raise ValueError(f'it must have {least} to {most} steps, and has {len(found)}')
  steps = [(step.get('text'), step.get('picture')) if isinstance(step, dict) else (None, None)
           for step in found]
  if not all(isinstance(each, str) and each.strip() for step in steps for each in step):
    raise ValueError('each step must have a "text" and a "picture"')
  if any(slots.numbers(said) for said, _ in steps):
    raise ValueError('texts must not have slots of images')
  return [(said.strip(), picture.strip()) for said, picture in steps]
