"""Stages that make a dialogue of the Markdown of a page, by language models (L121).

DuetGen (section 3.1) does not print its prompts; these are ours. What a model gives back is checked
before it is believed: which images are there, who speaks, how long it is.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from jaxgen.curation import slots
from jaxgen.curation.answers import answer
from jaxgen.curation.answers import answers
from jaxgen.curation.answers import shown
from jaxgen.curation.answers import value_of
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample

CATEGORIES = ('photo', 'drawing', 'interface', 'document', 'advertisement', 'icon', 'code')
DESCRIBE = (
    'Describe the image in one sentence of at most 40 words, and say what it is: one of '
    f'{", ".join(CATEGORIES)}. An interface is a screenshot of a program, a document a page of '
    'text, a code a QR code or a bar code.\n'
    'Answer with a JSON object: {"caption": "...", "category": "..."}')
REWRITE = (
    'Below is the text of a web page in Markdown. Rewrite it so that it reads as one clean article:'
    ' take out what is left of HTML, broken formatting, links, and what is about the site and not '
    'about the subject. Keep the facts, the steps and their order. Slots ![...](n) stand for '
    'images: keep each where it is, exactly once. Answer with the text alone.\n\n')
REORDER = (
    'Below are the numbered paragraphs of an article and the captions of its images, which are '
    'attached in this order. For each image give the number of the paragraph that describes what '
    'it shows, so that it can follow it. Give 0 for an image that belongs to none, or that is '
    'nearly the same as the one before.\n'
    'Answer with a JSON object from image to paragraph: {"1": 2, "2": 0}\n\n')
DIALOGUE = (
    'Below is an article in Markdown; slots ![...](n) stand for its images. Turn it into a natural '
    'dialogue in which a user asks for help and an assistant answers step by step, with a text '
    'before each image. The user may show one of the images in a turn, where a user would have it. '
    'Write every image as its slot ![](n), each at most once, in their order; speak as if all that '
    'the assistant shows were drawn for the user, with no word about an article.\n'
    'Answer with a JSON list of turns that begins with the user: '
    '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "... ![](1) ..."}]\n\n')
_ROLES = {'user': 'user', 'human': 'user', 'assistant': 'assistant', 'gpt': 'assistant',
          'model': 'assistant'}
_LEFT_OVER = re.compile(r'</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>|https?://|!\[[^\]]*\]\([^)]*\D')


@dataclasses.dataclass(frozen=True)
class Form:
  """What a dialogue must be.

  Attributes:
    turns: of both, at the most.
    words: of a turn, at the most.
    share: of the page's images that it must show.
  """

  turns: int
  words: int
  share: float


def described(record: Record, *, model: Model, keep: Sequence[str] = ('photo', 'drawing')
              ) -> Iterator[Record | Dropped]:
  """Asks what every image shows and what kind it is of; its caption stands in its slot then.

  Args:
    record: with ``markdown`` and ``images``.
    model: sees images.
    keep: categories; others are left out.
  """
  requests = [Request(DESCRIBE, (shown(image),)) for image in record['images']]
  captions, gone = [], []
  for number, found in enumerate(answers(model, requests, _caption), 1):
    caption, category = found.value or ('', 'not described')
    captions.append(caption)
    if category not in keep:
      gone.append(number)
      yield record.child(f'image-{number}', images=[record['images'][number - 1]]).drop(
          f'image: {category}', caption=caption, error=found.error)
  yield slots.without(slots.renamed(record, captions), gone)


def rewritten(record: Record, *, model: Model, least: float = 0.3, most: float = 1.5
              ) -> Record | Dropped:
  """Has the text of a page written again without what is no text; the slots must stay.

  Args:
    record: with ``markdown`` and ``images``.
    model: of language.
    least, most: words of the answer in those of the page.
  """
  before = slots.words(record['markdown'])

  def read(text: str) -> str:
    numbers = slots.numbers(text)
    if numbers != list(range(1, len(record['images']) + 1)):
      raise ValueError(f'its slots are {numbers}, and must be 1 to {len(record["images"])} in this '
                       'order')
    if not least * before <= slots.words(text) <= most * before:
      raise ValueError(f'it has {slots.words(text)} words, the page {before}')
    return text

  found = answer(model, Request(REWRITE + record['markdown']), read)
  if found.error:
    return record.drop('not rewritten', error=found.error)
  captions: dict[int, str] = {}
  slots.replaced(record['markdown'], lambda said, number: captions.setdefault(number, said))
  made = slots.laid_out(record, found.value)
  return slots.renamed(made, [captions[number] for number in sorted(captions)])


def reordered(record: Record, *, model: Model) -> Iterator[Record | Dropped]:
  """Puts every image behind the paragraph that describes it; the text stays as it is.

  Args:
    record: with ``markdown``, whose slots have captions, and ``images``.
    model: sees images.
  """
  blocks = slots.blocks(record['markdown'])
  texts = [block for block in blocks if not slots.numbers(block)]
  pictures = [block for block in blocks if slots.numbers(block)]
  asked = '\n\n'.join([*(f'Paragraph {place}: {text}' for place, text in enumerate(texts, 1)),
                       *(f'Image {number}: {text}' for number, text in enumerate(pictures, 1))])
  found = answer(model, Request(REORDER + asked, tuple(map(shown, record['images']))),
                 functools.partial(_places, images=len(pictures), texts=len(texts)))
  if found.error:
    yield record.drop('not ordered', error=found.error)
    return
  for number, place in found.value.items():
    if not place:
      yield record.child(f'image-{number}', images=[record['images'][number - 1]]).drop(
          'image: belongs to no text')
  laid = [block for place, text in enumerate(texts, 1) for block in (
      text, *(pictures[number - 1] for number, own in sorted(found.value.items())
              if own == place))]
  moved = laid != [block for block in blocks if block in laid]
  yield slots.laid_out(record, '\n\n'.join(laid)).noting(reordered=moved)


def dialogue(record: Record, *, model: Model, turns: int = 24, words: int = 600,
             share: float = 0.5) -> Record | Dropped:
  """Has the page told as a dialogue, mends what can be mended, and drops what has not the form.

  Args:
    record: with ``markdown`` and ``images``; it gets ``turns``, (role, text with slots) each.
    model: of language.
    turns, words, share: see ``Form``.
  """
  form = Form(turns, words, share)
  found = answer(model, Request(DIALOGUE + record['markdown']), functools.partial(
      checked, images=len(record['images']), form=form))
  if found.error:
    return record.drop('no dialogue', error=found.error)
  told, mended = found.value
  return record.having(turns=told).noting(mended=mended, asked=found.asked)


def checked(text: str, images: int, form: Form) -> tuple[list[tuple[str, str]], list[str]]:
  """The turns of an answer, mended, and what was mended.

  Turns of one speaker that follow each other become one; a greeting of the assistant before the
  user speaks, what the user says last without a reply, and slots that stand for no image or for
  one that was shown before are left out.

  Args:
    text: of the model.
    images: of the page.
    form: what the dialogue must be.

  Raises:
    ValueError: it has not the form; the message says to a model what is wrong.
  """
  told, mended = [], []
  for turn in value_of(text, list):
    role = _ROLES.get(str(turn.get('role')) if isinstance(turn, dict) else '')
    said = turn.get('content') if role else None
    if not isinstance(said, str):
      raise ValueError('a turn must be {"role": "user" or "assistant", "content": text}, and not '
                       + json.dumps(turn)[:100])
    if told and told[-1][0] == role:
      mended.append('turns of one speaker')
      told[-1] = role, f'{told[-1][1]}\n\n{said}'
    elif told or role == 'user':
      told.append((role, said))
    else:
      mended.append('greeting')
  if told and told[-1][0] == 'user':
    mended.append('no reply')
    told.pop()
  seen: set[int] = set()

  def once(_: str, number: int) -> str:
    if number in seen or not 1 <= number <= images:
      mended.append('slot')
      return ''
    seen.add(number)
    return slots.slot('', number)

  told = [(role, slots.replaced(said, once)) for role, said in told]
  _check(told, images, form)
  return told, mended


def dialogue_sample(record: Record) -> Record:
  """The sample: what the user says and shows, and the answers with their images as targets."""
  parts = []
  for role, said in record['turns']:
    for piece in slots.pieces(said):
      if isinstance(piece, str):
        parts.append(Part(role, text=piece, loss=role == 'assistant'))
      else:
        image = record['images'][piece - 1]
        parts.append(Part('target', image=image, loss=True) if role == 'assistant' else
                     Part('context', image=image))
  return record.having(sample=Sample(record.id, tuple(parts), task='dialogue'))


def _caption(text: str) -> tuple[str, str]:
  found = value_of(text, dict)
  caption, category = found.get('caption'), str(found.get('category')).lower()
  if not isinstance(caption, str) or not caption.strip():
    raise ValueError('it has no "caption"')
  if category not in CATEGORIES:
    raise ValueError(f'the "category" must be one of {", ".join(CATEGORIES)}')
  return caption.strip(), category


def _places(text: str, images: int, texts: int) -> dict[int, int]:
  """Paragraph of each image, 0 for none."""
  found: dict[str, Any] = value_of(text, dict)
  if set(found) != {str(number) for number in range(1, images + 1)}:
    raise ValueError(f'it must have the images 1 to {images}, each once')
  if any(type(place) is not int or not 0 <= place <= texts for place in found.values()):
    raise ValueError(f'paragraphs are 1 to {texts}, or 0')
  return {int(number): place for number, place in found.items()}


def _check(told: list[tuple[str, str]], images: int, form: Form) -> None:
  """Raises ``ValueError`` where turns have not the form."""
  if not 2 <= len(told) <= form.turns:
    raise ValueError(f'it must have 2 to {form.turns} turns, the first of the user and the last of '
                     'the assistant')
  drawn = []
  for role, said in told:
    pieces = slots.pieces(said)
    texts = [piece for piece in pieces if isinstance(piece, str)]
    shown_here = [piece for piece in pieces if isinstance(piece, int)]
    if not texts:
      raise ValueError('every turn must have a text')
    if slots.words(said) > form.words:
      raise ValueError(f'a turn has {slots.words(said)} words, and may have {form.words}')
    if _LEFT_OVER.search(slots.replaced(said, lambda *_: '')):
      raise ValueError('it holds HTML, an address or a slot of another form')
    if role == 'user' and len(shown_here) > 1:
      raise ValueError('the user may show one image in a turn')
    if role == 'assistant':
      if isinstance(pieces[0], int):
        raise ValueError('the assistant must say something before it shows an image')
      drawn += shown_here
  if not drawn:
    raise ValueError('the assistant shows no image')
  if drawn != sorted(drawn):
    raise ValueError(f'the images that the assistant shows must be in their order, and are {drawn}')
  count = sum(isinstance(piece, int) for _, said in told for piece in slots.pieces(said))
  if count < form.share * images:
    raise ValueError(f'it shows {count} of {images} images; leave no more than every other one out')
