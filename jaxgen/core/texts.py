"""Reads what people and other programs wrote: captions, prompts, tables and JSON, as Unicode text.

Files are UTF-8, or UTF-16 or UTF-32 where they begin with a byte order mark, which is no part of
the text. Anything else is an error, since a guess would train on wrong letters.
"""

import codecs
import json
from collections.abc import Callable
from typing import Any

from jaxgen.core.errors import record_error

_MARK = '\ufeff'
# UTF-32 first: its mark begins with that of UTF-16.
_WIDE = ((codecs.BOM_UTF32_LE, 'utf-32'), (codecs.BOM_UTF32_BE, 'utf-32'),
         (codecs.BOM_UTF16_LE, 'utf-16'), (codecs.BOM_UTF16_BE, 'utf-16'))


def is_wide(data: bytes) -> bool:
  """True for bytes that begin with the mark of UTF-16 or UTF-32; their lines end otherwise."""
  return data.startswith(tuple(mark for mark, _ in _WIDE))


def decoded(data: bytes, where: str) -> str:
  """The text that bytes stand for.

  Args:
    data: a file, or a line of one.
    where: the file, for errors.

  Raises:
    RecordError: they are of another encoding, or no text.
  """
  encoding = next((name for mark, name in _WIDE if data.startswith(mark)), 'utf-8')
  try:
    text = data.decode(encoding)
  except UnicodeDecodeError as error:
    raise record_error(where, None, f'is not {encoding.upper()}, byte {error.start} is '
                       f'0x{data[error.start]:02x}; save it as UTF-8') from None
  return checked(text, where)


def checked(text: str, where: str) -> str:
  """The text without a byte order mark.

  Raises:
    RecordError: it holds what no text holds: a zero byte, or half of a surrogate pair.
  """
  if '\0' in text:
    raise record_error(where, None, 'holds zero bytes, as UTF-16 without a byte order mark does; '
                       'save it as UTF-8')
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise record_error(where, None, f'holds {text[error.start]!a}, half of a surrogate pair, which '
                       'stands for no character; mend the text') from None
  return text.removeprefix(_MARK)


def parsed(data: bytes, where: str, fix: str = '',
           pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
  """The JSON that bytes hold.

  Args:
    data: a file, or a line of one.
    where: the file, for errors.
    fix: what else the error says.
    pairs: makes a value of the pairs of an object, as ``object_pairs_hook`` of ``json.loads``.

  Raises:
    RecordError: they hold no JSON.
  """
  text = decoded(data, where)
  try:
    return json.loads(text, object_pairs_hook=pairs)
  except (ValueError, RecursionError) as error:
    raise record_error(where, None, f'is not JSON: {error}{fix}') from None


def lines_of(text: str) -> list[str]:
  """The lines of a text, which end at newlines only: other separators may stand in a caption."""
  return text.replace('\r\n', '\n').split('\n')
