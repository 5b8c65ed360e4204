"""Markdown with images: slots ``![words](n)`` in a text, and the images 1 to n beside it.

In every record that stages of pages pass on, the slots of ``markdown`` are 1, 2, 3, ... in reading
order, one for each of ``images``.
"""

import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from jaxgen.curation.record import Record

_SLOT = re.compile(r'!\[([^\]\n]*)\]\(\s*(\d{1,6})\s*\)')
_FIELDS = ('images', 'about')  # lists with one value for each image


def slot(words: str, number: int) -> str:
  """The slot of an image; what would end its words early is left out."""
  plain = ' '.join(re.sub(r'[\[\]()!]', ' ', words).split())
  return f'![{plain}]({number})'


def numbers(text: str) -> list[int]:
  """Of the slots in a text, in reading order."""
  return [int(found[2]) for found in _SLOT.finditer(text)]


def words(text: str) -> int:
  """Words of a text beside its slots; a Chinese or Japanese letter is a word."""
  return len(re.findall(r'[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+',
                        _SLOT.sub(' ', text)))


def pieces(text: str) -> list[str | int]:
  """Texts between slots, without space around and none of them empty, and numbers of slots."""
  parts, end = [], 0
  for found in _SLOT.finditer(text):
    parts += [text[end:found.start()].strip(), int(found[2])]
    end = found.end()
  return [part for part in (*parts, text[end:].strip()) if part != '']


def replaced(text: str, by: Callable[[str, int], str]) -> str:
  """The text with ``by(words, number)`` for each slot; lines that become empty vanish."""
  lines = (_SLOT.sub(lambda found: by(found[1], int(found[2])), line) if _SLOT.search(line)
           else line for line in text.split('\n'))
  return re.sub(r'\n{3,}', '\n\n', '\n'.join(line.rstrip() for line in lines)).strip()


def blocks(text: str) -> list[str]:
  """Paragraphs of a text, where every slot is one of its own."""
  apart = _SLOT.sub(lambda found: f'\n\n{found[0]}\n\n', text)
  return [block.strip() for block in re.split(r'\n\s*\n', apart) if block.strip()]


def laid_out(record: Record, text: str) -> Record:
  """The record with another text, whose slots have the numbers of the record's images.

  Images without a slot are gone; the others are numbered again in reading order. A slot that
  stands for the second time or for no image is left out.
  """
  count, order = len(record['images']), []

  def renumbered(said: str, number: int) -> str:
    if number in order or not 1 <= number <= count:
      return ''
    order.append(number)
    return slot(said, len(order))

  text = replaced(text, renumbered)
  return record.having(markdown=text, **{
      name: [record[name][number - 1] for number in order]
      for name in _FIELDS if name in record.fields})


def without(record: Record, gone: Iterable[int]) -> Record:
  """The record without the images of these numbers and their slots."""
  gone = set(gone)
  return laid_out(record, replaced(
      record['markdown'], lambda said, number: '' if number in gone else slot(said, number)))


def renamed(record: Record, said: Sequence[str]) -> Record:
  """The record with other words in its slots."""
  return record.having(markdown=replaced(
      record['markdown'], lambda _, number: slot(said[number - 1], number)))
