"""Stages for pictures of several references: the prompt that brings them together (L014).

iMontage (section 3.2.2): references of people, objects and scenes; a model that sees them composes
the prompt, another one draws it, a judge scores it. The paper prints no prompts; these are ours.
"""

import functools
import re

from jaxgen.curation import answers
from jaxgen.curation import slots
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record

ORDINALS = ('first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth')
NAMES = {'human': 'a person', 'object': 'an object', 'scene': 'a place'}
MOST_WORDS = 80
COMPOSE = (
    'The images are references for a new picture: {listed}. Write a prompt for a picture that '
    'shows all of them together in one natural scene: what people do, where things are, what the '
    'light is like. Call each by its image, as in "the person in the first image", and name every '
    'image. Do not describe how a reference looks: the image shows it.\n'
    'Answer with the prompt alone, in at most 60 words.')
JUDGE = (
    'The last image was drawn from the other ones, which are references, by this prompt: {text}\n'
    'Give three scores from 0 to 10. prompt: the picture shows all that the prompt asks for. '
    'identity: people and objects are those of the references, in face, form, colour and detail. '
    'quality: the picture looks natural, without artifacts, wrong anatomy or pasted parts.\n'
    'Answer with a JSON object: {"prompt": 0, "identity": 0, "quality": 0}')
_NAMED = re.compile(rf'\b({"|".join(ORDINALS)}) image\b', re.IGNORECASE)


def prompted(record: Record, *, model: Model) -> Record | Dropped:
  """Has a prompt written that brings the references together.

  Args:
    record: with ``given`` and ``roles``; it gets ``instruction``.
    model: sees images.
  """
  count = len(record['given'])
  listed = ', '.join(f'the {ordinal} image shows {NAMES.get(role, role)}'
                     for ordinal, role in zip(ORDINALS, record['roles']))
  images = tuple(map(answers.shown, record['given']))
  found = answers.answer(model, Request(COMPOSE.format(listed=listed), images),
                         functools.partial(_prompt, count=count))
  if found.error:
    return record.drop('no prompt', error=found.error)
  return record.having(instruction=[found.value])


def _prompt(text: str, count: int) -> str:
  text = ' '.join(text.split()).strip('"“”')
  named = {found.casefold() for found in _NAMED.findall(text)}
  if named != set(ORDINALS[:count]):
    raise ValueError(f'it must name each of the {count} images, as "the first image", and no other')
  if (words := slots.words(text)) > MOST_WORDS:
    raise ValueError(f'it has {words} words; write no more than 60')
  return text
