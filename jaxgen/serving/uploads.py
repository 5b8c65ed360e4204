"""Images that clients send: bytes and data URLs, checked before a pixel is decoded.

Nothing that a client sends is ever a path or an address that is opened.
"""

import base64
import binascii

from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import image_size
from jaxgen.serving.errors import ApiError
from jaxgen.serving.limits import Limits


def checked_image(data: bytes, limits: Limits, where: str) -> bytes:
  """The bytes of an image file within the limits.

  Args:
    data: that were sent.
    limits: of the server.
    where: field that holds them.

  Raises:
    ApiError: too many bytes or pixels, or no image.
  """
  if len(data) > limits.image_bytes:
    raise ApiError(413, f'{where}: {len(data)} bytes; an image may have {limits.image_bytes}',
                   param=where, code='image_too_large')
  try:
    height, width = image_size(data)
  except DecodeError as error:
    raise ApiError(400, f'{where}: cannot be read: {error}', param=where, code='invalid_image'
                   ) from None
  if height * width > limits.pixels:
    raise ApiError(400, f'{where}: {width} x {height} pixels; an image may have {limits.pixels}',
                   param=where, code='image_too_large')
  return data


def from_data_url(url: object, limits: Limits, where: str) -> bytes:
  """The image of a ``data:image/...;base64,`` URL, or of base64 alone.

  Raises:
    ApiError: any other URL, which this server does not fetch, or as ``checked_image``.
  """
  if not isinstance(url, str):
    raise ApiError(400, f'{where}: must be a string', param=where, code='invalid_type')
  head, comma, text = url.partition(',')
  if not comma:
    head, text = 'data:;base64', url
  if not head.startswith('data:') or not head.endswith(';base64'):
    raise ApiError(400, f'{where}: give the image itself, as data:image/png;base64,...; this '
                   'server opens no addresses and no files', param=where, code='invalid_image_url')
  try:
    data = base64.b64decode(text, validate=True)
  except (binascii.Error, ValueError):
    raise ApiError(400, f'{where}: give the image itself, as data:image/png;base64,...; what '
                   'follows is no base64, and this server opens no addresses and no files',
                   param=where, code='invalid_base64') from None
  return checked_image(data, limits, where)
