"""From a row of a table to a sample: one short function per way of telling an example.

Every builder takes ``(row, fields, at)``. Fields are our names of columns (``FIELDS``) with theirs:
``inputs`` are images of which one alone is the source of an edit and several are references.
"""

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

from jaxgen.core.errors import record_error
from jaxgen.core.texts import checked
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import decode
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import IMAGE_ROLES
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sample import text_part
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.fields import Image
from jaxgen.data.sources.fields import NUMBER
from jaxgen.data.sources.fields import Root
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.fields import images_of
from jaxgen.data.sources.fields import texts_of
from jaxgen.data.sources.fields import value_of

# What a user may map. Texts: id, caption or instruction (the same thing), instructions,
# conversations; the rest are images.
FIELDS = ('id', 'caption', 'instruction', 'instructions', 'conversations', 'context', 'source',
          'reference', 'inputs', 'images', 'target')
ROLES = ('id', 'roles', 'texts', 'images')  # columns of rows in any order, see ``by_roles``
# <image>, <image_1>, <img><|image_1|></img>, and <gen_image> for an image to be generated
_SLOT = re.compile(r'<gen_image>|<image(?:_(\d+))?>|<img>\s*<\|image_(\d+)\|>\s*</img>')
_SPEAKERS = {'human': 'user', 'user': 'user', 'gpt': 'assistant', 'assistant': 'assistant',
             'system': 'system'}


@dataclasses.dataclass(frozen=True)
class At:
  """Where a row stands.

  Attributes:
    origin: file:line or file: row number, for errors.
    name: id of the sample where the row has none.
    root: of the paths.
    view: which of the samples that one row gives.
  """

  origin: str
  name: str
  root: Root
  view: int = 0


Build = Callable[[Row, Mapping[str, Names], At], Sample]


def builder_of(fields: Mapping[str, Names]) -> Build:
  """The builder that these fields are for."""
  if 'conversations' in fields:
    return conversation
  return sequence if 'instructions' in fields else plain


def plain(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """Images, one text, targets. Slots in the text say where the images stand in it."""
  inputs = [part for role in ('context', 'source', 'reference', 'inputs') if role in fields
            for part in _input_parts(role, images_of(row, fields[role], at.root, at.origin))]
  found = images_of(row, fields['target'], at.root, at.origin) if 'target' in fields else []
  if 'target' in fields and not found:
    raise record_error(f'{at.origin}: {fields["target"]}', None, 'the target image is missing')
  wordings = _wordings(row, fields, at)
  parts = _in_slots(inputs, wordings, at)
  return named_sample(row, fields, at, [*parts, *target_parts(found)])


def sequence(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """n images and either n - 1 instructions between them or one that all but the last belong to."""
  found = images_of(row, fields['images'], at.root, at.origin)
  slots = _slots(row, fields['instructions'])
  wordings = [texts_of({'text': slot}, 'text', at.origin) for slot in slots]
  if len(found) == len(slots) + 1:
    parts = _input_parts('inputs', found[:1])
    for instruction, image in zip(wordings, found[1:]):
      parts += [*_texts('user', instruction), *target_parts([image])]
  elif len(slots) == 1 and found:
    parts = [*_input_parts('inputs', found[:-1]), *_texts('user', wordings[0]),
             *target_parts(found[-1:])]
  else:
    raise record_error(at.origin, f'{len(found)} images, {len(slots)} instructions',
                       'n images need n - 1 instructions, or one')
  return named_sample(row, fields, at, parts)


def conversation(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """Turns of ``{from, value}`` whose slots are filled with the images in order.

  Where the assistant's turns have slots, their images are targets, and the others are the inputs
  of the edit; where they have none, all images are context.
  """
  images = images_of(row, fields['images'], at.root, at.origin) if 'images' in fields else []
  turns = _turns(row, fields['conversations'], at)
  slots = _speakers_of_slots(turns)
  if 'user' not in slots and len(images) > len(slots):  # the images come first
    first = next((number for number, turn in enumerate(turns) if turn[0] == 'user'), 0)
    extra = '<image>' * (len(images) - len(slots))
    turns[first] = (turns[first][0], extra + turns[first][1])
    slots = _speakers_of_slots(turns)
  told = [(speaker, piece) for speaker, text in turns for piece in _pieces(text)]
  order = iter(_order([piece for _, piece in told if isinstance(piece, int)], len(images), at))
  role = ('context' if 'assistant' not in slots else
          'source' if slots.count('user') == 1 else 'reference')
  parts = []
  for speaker, piece in told:
    if isinstance(piece, str):
      parts.append(Part(speaker, text=piece, loss=speaker == 'assistant'))
    elif speaker == 'assistant':
      parts += target_parts([images[next(order)]])
    else:
      parts.append(Part(role, image=images[next(order)]))
  return named_sample(row, fields, at, parts)


def numbered_turns(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """``source``, then ``instruction_1``, ``target_1``, ``instruction_2`` and so on."""
  parts = _input_parts('source', images_of(row, fields['source'], at.root, at.origin))
  number = 1
  while True:
    instruction, target = (fields[name].replace(NUMBER, str(number))
                           for name in ('instruction', 'target'))
    wordings = texts_of(row, instruction, at.origin)
    image = images_of(row, target, at.root, at.origin)
    if bool(wordings) != bool(image):
      raise record_error(at.origin, instruction if image else target, 'is missing: every turn '
                         'needs an instruction and an image')
    if not image:
      break
    parts += [*_texts('user', wordings), *target_parts(image)]
    number += 1
  if number == 1:
    raise record_error(at.origin, fields['target'].replace(NUMBER, '1'),
                       'the first turn is missing')
  return named_sample(row, fields, at, parts)


def nested_turns(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """A list of edits under ``images``, each with its own inputs, instruction and target.

  What a turn takes in is given once: later turns go on from the image before. The names of the
  others start with that of the list, as if it were one edit.
  """
  column = fields['images']
  turns = value_of(row, column)
  if not isinstance(turns, (list, tuple)) or not turns:
    raise record_error(f'{at.origin}: {fields["images"]}', turns, 'must be a list of turns')
  inner = {name: names for name, names in fields.items() if name not in ('id', 'images')}
  parts, known = [], set()
  for turn in turns:
    made = plain({column: turn}, inner, at)
    for part in made.parts:
      image = part.image.path if isinstance(part.image, FileImage) else part.image
      if part.is_image and image in known:
        continue
      known |= {image} if part.is_image else set()
      parts.append(part)
  return named_sample(row, fields, at, parts)


def two_views(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """One wide picture of two views of a subject: either is once the reference, once the target.

  With a margin p the authors cut squares of side s: x in [p, p + s] and [s + 2 p, 2 s + 2 p],
  y in [p, p + s]. Of a picture of 1056 x 528 pixels s is 512 and p is 8.
  """
  picture = images_of(row, fields['images'], at.root, at.origin)
  if len(picture) != 1:
    raise record_error(f'{at.origin}: {fields["images"]}', None, 'the picture is missing')
  try:
    pixels = decode(picture[0])
  except DecodeError:
    # It is broken as a whole: whoever decodes the parts meets the same error and counts it.
    views = [picture[0], picture[0]]
  else:
    side = pixels.shape[0] // 512 * 512 or pixels.shape[0]
    margin = (pixels.shape[0] - side) // 2
    views = [pixels[margin:margin + side, left:left + side].copy()
             for left in (margin, side + 2 * margin)]
  wordings = texts_of(row, fields['instruction'][at.view], at.origin)
  sample = named_sample(row, fields, at, [Part('reference', image=views[1 - at.view]),
                                     *_texts('user', wordings), *target_parts([views[at.view]])])
  return dataclasses.replace(sample, id=f'{sample.id}-{at.view}')


def by_roles(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """Parts in the order of ``roles``, each of which takes the next image or the next text."""
  texts, images = iter(row['texts']), iter(images_of(row, fields['images'], at.root, at.origin))
  parts = []
  for role in (role.decode() for role in row['roles']):
    if role in IMAGE_ROLES:
      parts.append(Part(role, image=next(images), loss=role == 'target'))
    else:
      parts.append(Part(role, text=next(texts).decode(), loss=role == 'assistant'))
  return named_sample(row, fields, at, parts)


def named_sample(row: Row, fields: Mapping[str, Names], at: At, parts: Sequence[Part]) -> Sample:
  """The sample with its id: the words under ``id``, else what the last image or row is called."""
  if not parts:
    raise record_error(at.origin, None, 'has neither a text nor an image')
  names = fields.get('id', ())
  found = [texts_of(row, name, at.origin)
           for name in ((names,) if isinstance(names, str) else names)]
  words = [texts[0] for texts in found if texts]
  if words:
    name = '-'.join(words)
  else:
    # The target that is a file names the sample, as in our own short form.
    files = [part.image.path for part in parts if isinstance(part.image, FileImage)]
    name = at.root.name(files[-1]) if files else at.name
  return Sample(name, tuple(parts), origin=at.origin)


def target_parts(images: Sequence[Image]) -> list[Part]:
  """Images to be generated."""
  return [Part('target', image=image, loss=True) for image in images]


def _input_parts(role: str, images: Sequence[Image]) -> list[Part]:
  if role == 'inputs':
    role = 'source' if len(images) == 1 else 'reference'
  return [Part(role, image=image) for image in images]


def _texts(role: str, wordings: Sequence[str]) -> list[Part]:
  return [text_part(role, wordings)] if wordings else []


def _wordings(row: Row, fields: Mapping[str, Names], at: At) -> tuple[str, ...]:
  return tuple(text for name in ('instruction', 'caption') if name in fields
               for text in texts_of(row, fields[name], at.origin))


def _in_slots(inputs: list[Part], wordings: tuple[str, ...], at: At) -> list[Part]:
  """The text with the inputs at its slots; without slots the inputs come first."""
  if not inputs or not any(_SLOT.search(text) for text in wordings):
    return [*inputs, *_texts('user', wordings)]
  # Wordings with slots would each have the images elsewhere; the first one is taken.
  pieces = _pieces(wordings[0])
  order = iter(_order([piece for piece in pieces if isinstance(piece, int)], len(inputs), at))
  return [Part('user', text=piece) if isinstance(piece, str) else inputs[next(order)]
          for piece in pieces]


def _pieces(text: str) -> list[str | int]:
  """The texts between slots, without space around, and the number of each slot, 0 for none."""
  found: list[str | int] = []
  end = 0
  for slot in _SLOT.finditer(text):
    found += [text[end:slot.start()].strip(), int(slot[1] or slot[2] or 0)]
    end = slot.end()
  found.append(text[end:].strip())
  return [piece for piece in found if piece != '']


def _order(numbers: list[int], count: int, at: At) -> list[int]:
  """Which image stands in each slot: the one of its number, or the next where none has one."""
  order = [number - 1 for number in numbers] if any(numbers) else list(range(len(numbers)))
  if sorted(order) != list(range(count)):
    raise record_error(at.origin, f'{count} images, {len(numbers)} slots',
                       'each image needs one slot in the text, or none has one')
  return order


def _speakers_of_slots(turns: list[tuple[str, str]]) -> list[str]:
  return [speaker for speaker, text in turns for _ in _SLOT.finditer(text)]


def _slots(row: Row, names: Names) -> list[object]:
  value = value_of(row, names) if isinstance(names, str) else [value_of(row, name)
                                                               for name in names]
  if isinstance(value, (list, tuple)):
    return list(value)
  return [] if value is None else [value]


def _turns(row: Row, name: Names, at: At) -> list[tuple[str, str]]:
  turns = value_of(row, name)
  if not isinstance(turns, (list, tuple)) or not turns:
    raise record_error(f'{at.origin}: {name}', turns, 'must be a list of {"from", "value"}')
  found = []
  for number, turn in enumerate(turns):
    turn = turn if isinstance(turn, Mapping) else {'value': turn}
    speaker = _SPEAKERS.get(str(turn.get('from', turn.get('role'))))
    text = turn.get('value', turn.get('content'))
    if speaker is None or not isinstance(text, str):
      raise record_error(f'{at.origin}: {name}[{number}]', turn,
                         'must be {"from": "human" or "gpt", "value": text}')
    found.append((speaker, checked(text, f'{at.origin}: {name}[{number}]')))
  return found
