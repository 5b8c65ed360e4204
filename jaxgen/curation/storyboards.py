"""Stages for storyboards: a character, a style and two to four panels (L019).

iMontage (section 3.2.2): pictures of one person that are safe, templates of instructions to a model
that draws, and captions of what it has drawn. The paper prints neither; templates and prompt are
ours.
"""

import functools

from jaxgen.curation import answers
from jaxgen.curation import slots
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.wordings import numbered

STYLES = ('cinematic storyboard', 'comic', 'black-and-white manga', 'watercolour picture book',
          'animated film', 'film noir', 'science-fiction film', 'fairy tale', 'travel documentary',
          'western', 'stop-motion film', 'pencil storyboard')
# Panels that follow each other; a storyboard takes the first ones.
STORIES = (
    ('wakes up in a small room as the sun comes in', 'opens the door and finds a letter',
     'reads the letter at the kitchen table, surprised', 'runs down the street with a suitcase'),
    ('walks through a crowded market', 'bargains with a seller of old maps',
     'unfolds a map under a street lamp at night', 'stands before a door in the rock'),
    ('waits at an empty railway station', 'boards a night train',
     'looks out of the window at snowy mountains', 'is met by a friend on the platform'),
    ('sits in a café and draws in a notebook', 'notices a stray dog outside in the rain',
     'shares an umbrella with the dog', 'sleeps on a sofa with the dog at the feet'),
    ('studies a machine in a cluttered workshop', 'pulls a lever, and sparks fly',
     'shields the eyes from a bright light', 'steps out into an unknown city'),
    ('packs a rucksack on the floor', 'hikes along a ridge in the wind',
     'makes a fire beside a tent at dusk', 'watches the sunrise from the summit'),
    ('rehearses alone on a dark stage', 'is nervous behind the curtain',
     'performs in the spotlight', 'bows, with flowers in the arms'),
    ('fishes from a wooden boat at dawn', 'pulls up a bottle in the net',
     'rows towards an island in the fog', 'digs on the beach with both hands'))
DRAW = (
    'Draw one panel of a {style}. The character of the first image {panel}. Keep face, hair, '
    'clothes and build of the character{before}. One picture, without text or frames.')
BEFORE = ', and the style, colours and light of the second image, which is the panel before'
RECAPTION = (
    'The first image shows a character, the others are the {count} panels of a {style} about them. '
    'Write one sentence of at most 30 words for each panel: what the character does, where, and '
    'how the picture is framed. Say "the character"; do not describe how the character looks.\n'
    'Answer with a JSON list of {count} strings.')


def planned(record: Record, *, least: int = 2, most: int = 4, seed: int = 0) -> Record:
  """Draws style, story and number of panels.

  Args:
    record: with ``image``, a character. It gets ``given``, ``style`` and ``panels``.
    least, most: panels.
    seed: of the draw.
  """
  rng = record.rng(seed)
  style, story = STYLES[rng.integers(len(STYLES))], STORIES[rng.integers(len(STORIES))]
  count = int(rng.integers(least, most + 1))
  return record.without('image', 'role', 'pack').having(
      given=[record['image']], style=style, panels=list(story[:count]))


def panels_drawn(record: Record, *, model: Model) -> Record | Dropped:
  """Has the panels drawn one after another, each with the character and the one before in view.

  Args:
    record: with ``given``, ``style`` and ``panels``; it gets ``targets``.
    model: draws.
  """
  targets: list[bytes] = []
  for panel in record['panels']:
    text = DRAW.format(style=record['style'], panel=panel, before=BEFORE if targets else '')
    reply, = model.ask([Request(text, (*record['given'], *targets[-1:]))])
    if reply.error or not reply.images:
      return record.drop('not drawn', error=reply.error)
    targets.append(reply.images[0])
  return record.having(targets=targets)


def recaptioned(record: Record, *, model: Model) -> Record | Dropped:
  """Has captions written of what was drawn; they replace what was asked for.

  Args:
    record: with ``given``, ``style`` and ``targets``; it gets ``instruction``.
    model: sees images.
  """
  count = len(record['targets'])
  found = answers.answer(
      model, Request(RECAPTION.format(count=count, style=record['style']),
                     tuple(map(answers.shown, (*record['given'], *record['targets'])))),
      functools.partial(_captions, count=count))
  if found.error:
    return record.drop('no captions', error=found.error)
  return record.without('panels').having(instruction=[numbered(found.value)])


def _captions(text: str, count: int) -> list[str]:
  found = answers.value_of(text, list)
  if len(found) != count or not all(isinstance(each, str) for each in found):
    raise ValueError(f'it must be a list of {count} strings')
  found = [' '.join(each.split()) for each in found]
  if any(not 2 <= slots.words(each) <= 45 for each in found):
    raise ValueError('each panel must have one sentence of at most 30 words')
  return found
