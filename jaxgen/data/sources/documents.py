"""Web documents and reasoning traces: texts and images that take turns, as public sets tell them.

Everything that such a document says after its opening is to be generated: its texts are the
assistant's and its images are targets.
"""

import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from jaxgen.core.errors import record_error
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.builders import At
from jaxgen.data.sources.builders import named_sample
from jaxgen.data.sources.builders import target_parts
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.fields import images_of
from jaxgen.data.sources.fields import texts_of
from jaxgen.data.sources.fields import value_of

_NAMED_SLOT = re.compile(r'<image_start>\s*\[([^\]]+)\]\s*<image_end>')


def aligned(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """Two lists side by side, texts and images, one of which is null at each place."""
  texts, images = (_list(row, fields[name], at) for name in ('caption', 'images'))
  if len(texts) != len(images):
    raise record_error(at.origin, None, 'texts and images must be lists of one length')
  parts = []
  for number, (text, image) in enumerate(zip(texts, images)):
    if text and image:
      raise record_error(at.origin, number, 'a text and an image stand at one place of the lists')
    parts += _said(text)
    parts += target_parts(images_of({'image': image}, 'image', at.root,
                                    f'{at.origin}: {fields["images"]}'))
  return named_sample(row, fields, at, parts)


def matched(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """Sentences, and images of which each stands before the sentence that it matches."""
  texts, images = _list(row, fields['caption'], at), _list(row, fields['images'], at)
  for image in images:
    place = image.get('matched_text_index') if isinstance(image, Mapping) else None
    if type(place) is not int or not 0 <= place < len(texts):
      raise record_error(at.origin, place, 'an image matches no sentence')
  parts = []
  for number, text in enumerate(texts):
    for image in images:
      if image['matched_text_index'] == number:
        parts += target_parts(images_of(image, 'image_name', at.root, at.origin))
    parts += _said(text)
  return named_sample(row, fields, at, parts)


def steps(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """A title, then steps, each a list of ``{type: text, content}`` and ``{type: image, ...}``."""
  parts = [Part('user', text=text) for text in texts_of(row, fields['instruction'], at.origin)]
  for step in _list(row, fields['images'], at):
    for item in step if isinstance(step, list | tuple) else [step]:
      if not isinstance(item, Mapping) or 'type' not in item:
        raise record_error(f'{at.origin}: {fields["images"]}', item,
                           'must be an object with "type"')
      if item['type'] == 'text':
        parts += _said(item.get('content'))
      else:
        parts += target_parts(images_of(item, 'image_path', at.root, at.origin))
  return named_sample(row, fields, at, parts)


def trace(row: Row, fields: Mapping[str, Names], at: At) -> Sample:
  """A question, the reasoning and the answer; slots in them name the columns of their images."""
  parts = []
  for name in fields['instruction']:
    asked = name == fields['instruction'][0]
    for text in texts_of(row, name, at.origin)[:1]:
      parts += _traced(row, text, asked, at)
  return named_sample(row, fields, at, parts)


def _traced(row: Row, text: str, asked: bool, at: At) -> list[Part]:
  parts = []
  # re.split puts the names of the slots at the odd places.
  for number, piece in enumerate(_NAMED_SLOT.split(text)):
    if number % 2:
      images = images_of(row, piece, at.root, at.origin)
      if not images:
        raise record_error(f'{at.origin}: {piece}', None, 'the text has a slot for this image, but '
                           'the row has no such image')
      parts += [Part('context', image=images[0])] if asked else target_parts(images[:1])
    elif asked and piece.strip():
      parts.append(Part('user', text=piece.strip()))
    else:
      parts += _said(piece)
  return parts


def _list(row: Row, name: str, at: At) -> Sequence[Any]:
  """A column that holds a list; anything else makes the record a broken one."""
  value = value_of(row, name)
  if not isinstance(value, list | tuple):
    raise record_error(f'{at.origin}: {name}', value, 'must be a list')
  return value


def _said(text: str | None) -> list[Part]:
  return [Part('assistant', text=text.strip(), loss=True)] if text and text.strip() else []
