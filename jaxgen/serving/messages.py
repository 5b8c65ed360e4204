"""Messages of OpenAI's chat API as a sample, and an answer's parts as a message."""

from collections.abc import Sequence
from typing import Any

from jaxgen.core.endpoint import image_url
from jaxgen.core.image_files import to_png
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.sampling.jobs import GIVEN
from jaxgen.serving.drawer import Drawer
from jaxgen.serving.errors import ApiError
from jaxgen.serving.limits import Limits
from jaxgen.serving.uploads import from_data_url

# Role of a message -> role of its texts.
SPEAKERS = dict(system='system', developer='system', user='user', assistant='assistant')
MESSAGES, PARTS = 256, 1024  # of one call


def parts_of(messages: object, limits: Limits, images: int) -> list[Part]:
  """The parts of a dialogue, with images as the bytes of their files.

  Args:
    messages: of a call.
    limits: of the server.
    images: given ones at the most.

  Raises:
    ApiError: something other than texts and images, or too much of it.
  """
  if not isinstance(messages, list) or not 0 < len(messages) <= MESSAGES:
    raise ApiError(400, f'messages: send a list of 1 to {MESSAGES}', param='messages',
                   code='invalid_type')
  parts: list[Part] = []
  shown = 0
  for number, message in enumerate(messages):
    where = f'messages[{number}]'
    role = message.get('role') if isinstance(message, dict) else None
    if role not in SPEAKERS:
      raise ApiError(400, f'{where}.role: use {", ".join(SPEAKERS)}', param='messages',
                     code='invalid_value')
    for piece in _pieces(message, where):
      if len(parts) == PARTS:
        raise ApiError(400, f'messages: more than {PARTS} texts and images; send fewer, longer '
                       'texts', param='messages', code='invalid_value')
      parts.append(_part(piece, role, where, limits))
      shown += parts[-1].is_image
      if shown > images:
        raise ApiError(400, f'{where}: more than {images} images, which is what one request of '
                       'this model may have', param='messages', code='too_many_images')
  if sum(len(part.text or '') for part in parts) > limits.prompt:
    raise ApiError(400, f'messages: their texts may have {limits.prompt} characters',
                   param='messages', code='prompt_too_long')
  return parts


def sample_of(parts: Sequence[Part], drawer: Drawer) -> Sample:
  """The dialogue with decoded images; raises a ``DecodeError`` where one cannot be read."""
  return Sample('dialogue', tuple(
      Part(part.role, image=drawer.given(part.image)) if part.is_image else part
      for part in parts), origin='messages')


def piece_of(part: Part, index: int) -> dict[str, Any]:
  """A part of an answer as a part of a message's content; ``index`` counts its images."""
  if not part.is_image:
    return dict(type='text', text=part.text)
  return dict(type='image_url', index=index, image_url=dict(url=image_url(to_png(part.image))))


def message_of(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The message of an answer: its text, its images, and both in their order as ``parts``."""
  texts = [piece['text'] for piece in pieces if piece['type'] == 'text']
  return dict(role='assistant', content='\n'.join(texts) or None, parts=list(pieces),
              images=[piece for piece in pieces if piece['type'] == 'image_url'])


def _pieces(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
  """The texts and images of a message in their order; one that was an answer has them in ``parts``.
  """
  content = message.get('parts') or message.get('content')
  if isinstance(content, str):
    content = [dict(type='text', text=content)]
  pieces = [] if content is None else content
  if not message.get('parts'):
    images = message.get('images') or []
    pieces = [*pieces, *images] if isinstance(pieces, list) and isinstance(images, list) else None
  if not isinstance(pieces, list) or not all(isinstance(piece, dict) for piece in pieces):
    raise ApiError(400, f'{where}.content: send a string, or a list of {{"type": "text"}} and '
                   '{"type": "image_url"}', param='messages', code='invalid_type')
  return pieces


def _part(piece: dict[str, Any], role: str, where: str, limits: Limits) -> Part:
  kind = piece.get('type')
  if kind == 'text' and isinstance(piece.get('text'), str):
    return Part(SPEAKERS[role], text=piece['text'])
  if kind == 'image_url':
    url = piece.get('image_url')
    url = url.get('url') if isinstance(url, dict) else url
    own = 'target' if role == 'assistant' else piece.get('role', 'source')
    if own not in (*GIVEN, 'target'):
      raise ApiError(400, f'{where}.role: an image is {" or ".join(GIVEN)}', param='messages',
                     code='invalid_value')
    return Part(own, image=from_data_url(url, limits, f'{where}.image_url'))
  raise ApiError(400, f'{where}.content: each part is {{"type": "text"}} or {{"type": '
                 '"image_url"}', param='messages', code='invalid_type')
