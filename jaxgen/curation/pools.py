"""Stages that find pairs of images in pools with captions, and have their difference told.

Query-Kontext (section 2, figure 6; L069, L070), after MetaQuery: images of one caption are
clustered by their features; of each cluster the image that is least like the others is the target.
"""

import re
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from jaxgen.curation import answers
from jaxgen.curation import slots
from jaxgen.curation.clusters import clusters
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import image_file
from jaxgen.data.decode import image_size
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sample import text_part
from jaxgen.features.vectors import unit

MOST_WORDS = 64
# Figure 6, word for word but for its examples of examples (L070).
INSTRUCT = '''\
The first image is the source image, the second image is the target image. create an interesting \
text prompt that can be used with the source images to generate the target image.
This prompt should include:
- one general and unspecific similarity shared with the source image.
- all differences that only the target image has.
This prompt should NOT include:
- any specific details that would allow generating the target image independently without \
referencing the source image.
Remember the prompt should be concise and short (no more than 64 words).
The difference should include but not limited to:
Change in Angle. Describe the specific new angle, e.g.:
* Side view, back view, viewed from the front side
* With a closer view, focus on the top of the item
* Cropped in the center, in a horizontal/vertical view
Same Subject, Altered Elements. Specify added/removed elements, e.g.:
* The same jacket but with a person wearing it
* Without the package
* with a bowl on the right
* Show the engine of the same car
Color Change. Describe the new color(s), e.g.:
* Blue and purple flowers instead of yellow
* Turn the color of the vase to cyan
* Same design but in white
Position Change. Specify the new position, e.g.:
* Put the item in the middle
* Move it to the side with a closer view
Background Change. Describe the modified background, e.g.:
* With a clean background
* The daylight turns dim
* Without a background
Quantity Change. State the updated quantity, e.g.:
* Show three trains of the same type
State/Process Change. Describe the transformation or action, e.g.:
* The beef is cooked
* The man is pouring batter into a pan
* Put it down
Here are some of the example:
1. Prompt: The complete front view of the same jersey top.
2. Prompt: Show three blue pot with same floral design, now placed in a cozy dining scene with \
food, drinks, and side dishes around it.
3. Prompt: The same pair of silver rings captured in another angle with brighter lighting and a \
clean white background and softer shadows.
Please generate one English prompt and one Chinese prompt, following the JSON format:
[ 'English prompt here', 'Chinese prompt here' .]'''
_CHINESE = re.compile('[\u3400-\u9fff]')


def captioned_images(record: Record, *, side: int = 256, words: int = 3
                     ) -> Iterator[Record | Dropped]:
  """The images of a document or a pair, each with the text that it accompanies.

  That is the next text behind it, as sets of web documents are read (an image stands before the
  sentence that it was matched with), or the last one where none follows.

  Args:
    record: with ``sample``. Images get ``image``, encoded, ``caption``, and ``key``, the words of
      the caption without case and punctuation.
    side: pixels of the shorter side, at the least.
    words: of a caption, at the least.
  """
  parts = record['sample'].parts
  texts = [place for place, part in enumerate(parts) if not part.is_image]
  for number, (place, part) in enumerate((place, part) for place, part in enumerate(parts)
                                         if part.is_image):
    behind = [other for other in texts if other > place] or texts[-1:]
    caption = parts[behind[0]].text if behind else ''
    key = ' '.join(re.findall(r'\w+', caption.casefold()))
    child = record.without('sample').child(f'{number}', caption=caption, key=key)
    try:
      image = image_file(part.image)
      small = min(image_size(image)) < side
    except DecodeError as error:
      yield child.drop('broken image', error=str(error)[:200])
      continue
    if small or slots.words(caption) < words:
      yield child.having(image=image).drop('small image' if small else 'short caption')
    else:
      yield child.having(image=image)


def featured(record: Record, *, model: Model) -> Record | Dropped:
  """Adds ``features``, f32[E] of length 1.

  Args:
    record: with ``image``.
    model: a tower: its first output is taken.
  """
  reply, = model.ask([Request(images=(answers.shown(record['image']),))])
  if reply.error:
    return record.drop('no features', error=reply.error)
  return record.having(features=unit(next(iter(reply.arrays.values())).ravel()))


def pairs(records: Sequence[Record], *, least: float, most: float, largest: int = 2000,
          triplets: int = 1) -> Iterator[Record | Dropped]:
  """Pairs of source and target among the images of one caption: for ``Group``.

  Args:
    records: with ``image``, ``features`` and ``caption``. Pairs have ``source``, ``target`` and
      ``caption``.
    least, most: cosine similarity, bounds that are kept: of what is no other view of one thing,
      and of what is the same picture again.
    largest: images of a caption that are looked at; a caption of more says little.
    triplets: pairs of a cluster, at the most.
  """
  yield from (record.drop('too many of one caption') for record in records[largest:])
  records = records[:largest]
  features = np.stack([record['features'] for record in records])
  used = np.zeros(len(records), bool)
  reasons = {}
  for members in clusters(features, least):
    similar = features[members] @ features[members].T
    target = members[np.argmin(similar.sum(1))]
    to_target = features[members] @ features[target]
    order = [members[place] for place in np.argsort(-to_target, kind='stable')
             if members[place] != target and least <= to_target[place] <= most]
    for source in order[:triplets]:
      used[[source, target]] = True
      yield _pair(records[source], records[target], float(features[source] @ features[target]))
    reasons |= {member: 'not in a pair' if order else 'out of bounds' for member in members}
  for place in np.flatnonzero(~used):
    yield records[place].without('features').drop(reasons.get(
        place, 'no like image' if len(records) > 1 else 'alone under its caption'))


def instructed(record: Record, *, model: Model) -> Record | Dropped:
  """Has the instruction written that makes the target of the source, in English and Chinese.

  Args:
    record: with ``source`` and ``target``; it gets ``instruction``, [English, Chinese].
    model: sees images.
  """
  images = tuple(answers.shown(record[name]) for name in ('source', 'target'))
  found = answers.answer(model, Request(INSTRUCT, images), two_prompts)
  if found.error:
    return record.drop('no instruction', error=found.error)
  return record.having(instruction=found.value)


def two_prompts(text: str) -> list[str]:
  """[English, Chinese] in an answer of the form of L070.

  Raises:
    ValueError: it has another form, or is too long.
  """
  # The prompt's own example has a full stop before the bracket.
  found = answers.value_of(re.sub(r'''(?<=['"])\s*\.\s*\]''', ']', text), list)
  if len(found) != 2 or not all(isinstance(each, str) and each.strip() for each in found):
    raise ValueError('it must be a list of two prompts, one in English and one in Chinese')
  english, chinese = (' '.join(each.split()) for each in found)
  if _CHINESE.search(english) or not _CHINESE.search(chinese):
    raise ValueError('the first prompt must be in English, the second in Chinese')
  if (count := slots.words(english)) > MOST_WORDS:
    raise ValueError(f'the English prompt has {count} words; write no more than {MOST_WORDS}')
  return [english, chinese]


def transformation_sample(record: Record) -> Record:
  """The sample: the source as reference, the instruction in both languages, the target."""
  return record.having(sample=Sample(record.id, (
      Part('reference', image=record['source']), text_part('user', record['instruction']),
      Part('target', image=record['target'], loss=True)), task='transformation'))


def _pair(source: Record, target: Record, similarity: float) -> Record:
  """A record of two, which keeps the licences of both."""
  return target.without('features', 'image', 'key').having(
      source=source['image'], target=target['image']).joined(source).noting(
          similarity=round(similarity, 4))
