"""Stages that filter, turn round and translate edits: source, instruction, target.

Query-Kontext (sections 2 and B.2; L071 to L073).
"""

import functools
import re
from collections.abc import Iterator

from jaxgen.curation import answers
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sample import text_part
from jaxgen.features.vectors import unit

JUDGE = (
    'The first image is the source, the second one the result of an edit. Instruction: {text}\n'
    'Give two scores from 0 to 10. fidelity: the result shows all that the instruction asks for, '
    'and leaves the rest of the source as it was. quality: the result looks natural, without '
    'artifacts, blur or wrong anatomy.\n'
    'Answer with a JSON object: {{"fidelity": 0, "quality": 0}}')
INVERT = (
    'The first image was edited to the second one by this instruction: {text}\n'
    'Write the instruction that makes the first image of the second one, in at most 64 words and '
    'in the language of the given one. Do not mention the edit. Answer with the instruction alone.')
TRANSLATE = (
    'Translate this instruction for editing an image to {language}, as a native speaker would '
    'write it. Keep words that are to stand in the image as they are. Answer with the translation '
    'alone.\n{text}')
# Letters that a translation must have.
SCRIPTS = {'Chinese': '[\u3400-\u9fff]', 'Japanese': '[\u3040-\u30ff]', 'Korean': '[\uac00-\ud7af]',
           'Russian': '[\u0400-\u04ff]'}
# Edits whose reverse has the same words: verb, what stands between the two things, both ways.
_OPPOSITE = {'add': 'remove', 'remove': 'add'}
_ONE = re.compile(r'(?P<verb>add|remove)(?P<rest>\s.+?)(?P<end>[.!]?)', re.IGNORECASE | re.DOTALL)
_PLACE = {'to': 'from', 'from': 'to'}
_OF_IMAGE = re.compile(r'(?P<what>.+?\s)(?P<at>to|from)(?P<where>\s(?:the|this)\s(?:image|picture|'
                       r'photo|scene|background))', re.IGNORECASE | re.DOTALL)
_TWO = re.compile(r'(?P<verb>replace|swap|exchange)\s(?P<old>.+?)\s(?P<by>with|by|for)\s'
                  r'(?P<new>.+?)(?P<end>[.!]?)', re.IGNORECASE | re.DOTALL)


def similar(record: Record, *, images: Model, texts: Model, least_image: float,
            most_image: float, least_text: float) -> Record | Dropped:
  """Keeps edits by CLIP's similarities of source and target, and of target and words.

  Args:
    record: with ``source``, ``target`` and ``instruction``; the words are ``caption``, that of the
      target, where the record has one, else the first instruction.
    images, texts: towers of one space, which may be one CLIP; of each the first output is taken.
    least_image, most_image: cosine similarity of source and target.
    least_text: of target and words.
  """
  words = record.fields.get('caption') or record['instruction'][0]
  replies = [*images.ask([Request(images=(answers.shown(record[name]),))
                          for name in ('source', 'target')]), *texts.ask([Request(words)])]
  if any(reply.error for reply in replies):
    return record.drop('no features', error=next(reply.error for reply in replies if reply.error))
  source, target, said = (unit(next(iter(reply.arrays.values())).ravel()) for reply in replies)
  image, text = round(float(source @ target), 4), round(float(target @ said), 4)
  facts = dict(image_similarity=image, text_similarity=text)
  if not least_image <= image <= most_image:
    return record.drop('target unlike its source' if image < least_image else 'nothing changed',
                       **facts)
  return record.noting(**facts) if text >= least_text else record.drop(
      'target unlike its words', **facts)


def judged(record: Record, *, model: Model, fidelity: float = 7, quality: float = 7
           ) -> Record | Dropped:
  """Keeps edits that a judge gives two good scores (L073).

  Args:
    record: with ``source``, ``target`` and ``instruction``.
    model: sees images.
    fidelity, quality: scores of 0 to 10, at the least.
  """
  images = tuple(answers.shown(record[name]) for name in ('source', 'target'))
  found = answers.answer(model, Request(JUDGE.format(text=record['instruction'][0]), images),
                         functools.partial(answers.scores, names=('fidelity', 'quality')))
  if found.error:
    return record.drop('no scores', error=found.error)
  if found.value['fidelity'] < fidelity:
    return record.drop('not as instructed', **found.value)
  return record.noting(**found.value) if found.value['quality'] >= quality else record.drop(
      'poor image', **found.value)


def with_reverse(record: Record, *, model: Model, keep: bool = True) -> Iterator[Record | Dropped]:
  """Adds the edit that leads back, whose target is the source, an image that no model made (L073).

  Its instruction follows from the words where they say what comes and goes, else a model is asked.

  Args:
    record: with ``source``, ``target`` and ``instruction``.
    model: sees images.
    keep: the edit as it was too.
  """
  if keep:
    yield record
  said = record['instruction'][0]
  inverse = inverse_of(said)
  if not inverse:
    images = tuple(answers.shown(record[name]) for name in ('source', 'target'))
    found = answers.answer(model, Request(INVERT.format(text=said), images), _instruction)
    if found.error:
      yield record.child('reverse').drop('no reverse', error=found.error)
      return
    inverse = found.value
  yield turned(record.child('reverse', inverse=[inverse]))


def turned(record: Record) -> Record:
  """The edit from target to source; turned twice it is the same again.

  Args:
    record: with ``source``, ``target``, ``instruction`` and ``inverse``. A ``caption`` is lost: it
      told of the target.
  """
  return record.without('caption').having(
      source=record['target'], target=record['source'], instruction=record['inverse'],
      inverse=record['instruction']).noting(
          reversed=not record.lineage.notes.get('reversed', False))


def inverse_of(text: str) -> str:
  """The instruction that undoes one of adding, removing or replacing; '' for others.

  It undoes itself: the inverse of the inverse is the text.
  """
  text = text.strip()
  if found := _TWO.fullmatch(text):
    # Between two things that hold the same words nobody can tell which is which.
    if not re.search(r'\s(?:with|by|for)\s', f'{found["old"]} {found["new"]}', re.IGNORECASE):
      return (f'{found["verb"]} {found["new"]} {found["by"]} {found["old"]}{found["end"]}')
  elif (found := _ONE.fullmatch(text)) and not re.search(
      r'\s(?:and|then|with)\s|[,;]', found['rest'], re.IGNORECASE):
    rest = found['rest']
    if place := _OF_IMAGE.fullmatch(rest):
      rest = f'{place["what"]}{_PLACE[place["at"].lower()]}{place["where"]}'
    verb = _OPPOSITE[found['verb'].lower()]
    return f'{verb.capitalize() if found["verb"][0].isupper() else verb}{rest}{found["end"]}'
  return ''


def translated(record: Record, *, model: Model, language: str = 'Chinese') -> Record | Dropped:
  """Adds the instruction in another language, as a further wording (L071).

  Args:
    record: with ``instruction``, of which the first is translated.
    model: of language.
    language: a key of ``SCRIPTS``.
  """
  said = record['instruction'][0]
  if re.search(SCRIPTS[language], said):
    return record

  def read(text: str) -> str:
    words = _instruction(text)
    if not re.search(SCRIPTS[language], words):
      raise ValueError(f'it is not in {language}')
    if len(words) > 2 * len(said) + 20:
      raise ValueError(f'it has {len(words)} letters, the instruction {len(said)}')
    return words

  found = answers.answer(model, Request(TRANSLATE.format(language=language, text=said)), read)
  if found.error:
    return record.drop('no translation', error=found.error)
  return record.having(instruction=[*record['instruction'], found.value])


def edit_sample(record: Record) -> Record:
  """The sample: source, the instruction in all wordings, target."""
  return record.having(sample=Sample(record.id, (
      Part('source', image=record['source']), text_part('user', record['instruction']),
      Part('target', image=record['target'], loss=True)), task='edit'))


def _instruction(text: str) -> str:
  words = ' '.join(text.split()).strip('"“”')
  if not words or len(words) > 600:
    raise ValueError('it must be one instruction of at most 64 words')
  return words
