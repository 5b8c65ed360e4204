"""Stages that read web pages: the main content as Markdown, its images, and a cleaner text.

DuetGen (section 3.1; L120, L121).
"""

import base64
import contextlib
import html
import logging
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator
from typing import Any

from jaxgen.core.errors import record_error
from jaxgen.curation import slots
from jaxgen.curation.extras import extra
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record

# Where pages that load their images late say what they will show.
_ADDRESSES = ('data-src', 'data-original', 'data-lazy-src', 'data-srcset', 'srcset', 'src')
_HOST = 'http://slot/'  # of the addresses that stand for images while a page is extracted
_MARKED = re.compile(rf'!\[([^\n]*?)\]\({_HOST}(\d+)\.jpg\)')
_TAG = re.compile(r'</?[a-zA-Z][a-zA-Z0-9-]*(?:\s[^<>]*)?/?>|<!--.*?-->', re.DOTALL)
_LINK = re.compile(r'(?<!!)\[([^\]]*)\]\([^)\s]*(?:\s+"[^"]*")?\)')
_ADDRESS = re.compile(r'<?(?:https?://|www\.)[^\s<>)\]]+>?')
_CODE = re.compile(r'(```.*?(?:```|\Z))', re.DOTALL)
_BEGINS = re.compile(r'\s|[-*+]\s|\d+[.)]\s|[#>|]|!\[')  # a block, or code that is indented
_UNSEEN = re.compile('[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffc\ufffd]')
# Lines that are of the site and not of the page, as a whole.
_OF_THE_SITE = re.compile(
    r'(?:[-*•]\s*)?(?:advertisements?|sponsored(?: content)?|share(?: (?:this|on \w+).*)?|tweet|'
    r'pin it|print|e-?mail(?: this)?|read more|see more|show more|learn more|click here.*|'
    r'subscribe.*|sign up.*|log ?in|follow us.*|related (?:articles|posts).*|skip to .*|'
    r'(?:jump|back) to (?:top|recipe)|(?:all rights reserved|copyright|©).*|loading\W*)[.!:]?',
    re.IGNORECASE)


def main_content(record: Record) -> Iterator[Record | Dropped]:
  """Finds the main content of a page by trafilatura, as Markdown with slots for its images.

  Images are those that the page holds itself, and files in the folder of the input: an address is
  looked up in the mapping ``images`` from address to path, which a line of ``sources.jsonl`` may
  have, else taken for a path beside the page, as browsers save them. Nothing is fetched.

  Args:
    record: with ``path`` and ``name`` of an HTML file. It gets ``markdown``, ``images``, encoded,
      and ``about``: address and class of each, and where it links to, in one text.
  """
  tree = _tree(record['path'])
  found = _marked(tree)
  # What looks like a slot in the text itself, as on a page about Markdown, is none.
  text = slots.replaced(_extracted(tree), lambda *_: '')
  shown = [int(mark[2]) for mark in _MARKED.finditer(text)]
  images, lost = {}, []
  for number in dict.fromkeys(shown):
    image = _image(record, found[number][0])
    if image is None:
      lost.append(number)
    else:
      images[number] = image
  for number in lost:
    yield record.child(f'image-{number}').drop('no such image', address=found[number][0][:200])
  # Numbers as ``slots`` has them: places among the images that are there.
  places = {number: place for place, number in enumerate(images, 1)}
  text = _MARKED.sub(lambda mark: slots.slot(mark[1], places[int(mark[2])])
                     if int(mark[2]) in places else '', text)
  made = record.having(images=list(images.values()),
                       about=[' '.join(found[number]) for number in images])
  yield slots.laid_out(made, text)


def cleaned(record: Record) -> Record:
  """Takes out of the text what is of its format or of its site.

  That is: tags and entities that a page shows as text, links, whose words stay, bare addresses,
  letters that cannot be seen, line breaks within a paragraph, and lines such as "Share on
  Facebook". Code stays as it is.

  Args:
    record: with ``markdown``.
  """
  pieces = _CODE.split(record['markdown'])
  pieces[::2] = map(_clean, pieces[::2])
  return slots.laid_out(record, re.sub(r'\n{3,}', '\n\n', ''.join(pieces)).strip())


def substantial(record: Record, *, words: int = 60, most_words: int = 4000, images: int = 1,
                most_images: int = 24) -> Record | Dropped:
  """Drops pages with too little or too much in them (L120: text alone).

  Args:
    record: with ``markdown`` and ``images``.
    words, most_words: of the text, bounds that are kept.
    images, most_images: the same of images.
  """
  seen, count = len(record['images']), slots.words(record['markdown'])
  noted = record.noting(words=count, images=seen)
  for value, least, most, few, many in (
      (seen, images, most_images, 'too few images', 'too many images'),
      (count, words, most_words, 'too short', 'too long')):
    if not least <= value <= most:
      return record.drop(few if value < least else many, words=count, images=seen)
  return noted


def _clean(text: str) -> str:
  """See ``cleaned``; the text has no blocks of code."""
  text = unicodedata.normalize('NFC', html.unescape(text)).replace('\\<', '<')
  text = _UNSEEN.sub('', text).replace('\xa0', ' ')
  text = _ADDRESS.sub('', _LINK.sub(r'\1', _TAG.sub(' ', text)))
  made: list[str] = []
  for line in text.split('\n'):
    line = re.sub(r'(?<=\S)[ \t]+', ' ', line).rstrip()
    if _OF_THE_SITE.fullmatch(line.strip().strip('*_#').strip()):
      continue
    # A line of HTML that goes on in the next one.
    if made and made[-1] and line and made[-1][0] not in '#|' and not _BEGINS.match(line):
      made[-1] += f' {line}'
    else:
      made.append(line)
  return '\n'.join(made)


def _tree(path: str) -> Any:
  trafilatura = _trafilatura()
  with open(path, 'rb') as file:
    tree = trafilatura.load_html(file.read())
  if tree is None:
    raise record_error(path, None, 'is no HTML page')
  return tree


def _trafilatura() -> Any:
  trafilatura = extra('trafilatura', 'trafilatura')
  # It tells of every page that it cannot read; here that is counted.
  logging.getLogger('trafilatura').setLevel(logging.CRITICAL)
  return trafilatura


def _marked(tree: Any) -> dict[int, tuple[str, str]]:
  """Gives every image of a page an address of its own, in place.

  An extractor decides by the ending of an address whether it is an image, does not know all ways
  of loading one late, and leaves out captions, which become descriptions here.

  Returns:
    Number -> address, and class of the image with the address that it links to.
  """
  found = {}
  for number, image in enumerate(tree.iter('img')):
    address = next((value for name in _ADDRESSES for value in [_first(image.get(name), name)]
                    if value), '')
    figure = next(image.iterancestors('figure'), None)
    caption = figure.findtext('.//figcaption') if figure is not None else ''
    said = ' '.join(re.sub(r'[\[\]\x00-\x1f\x7f\ufffe\uffff]', ' ',
                           caption or image.get('alt') or '').split())
    parent = image.getparent()
    link = parent.get('href') or '' if parent is not None and parent.tag == 'a' else ''
    found[number] = address, f'{image.get("class") or ""} {link}'.strip()
    image.attrib.clear()
    image.attrib.update(dict(src=f'{_HOST}{number}.jpg', alt=said))
  return found


def _first(value: str | None, name: str) -> str:
  """The address in an attribute, of a set the largest; placeholders are none."""
  value = (value or '').strip()
  if name.endswith('srcset'):
    sizes = [part.split() for part in re.split(r',\s+', value) if part.strip()]
    value = max(sizes, key=_width)[0] if sizes else ''
  return '' if value.startswith('data:image/gif') or value.startswith('data:image/svg') else value


def _width(part: list[str]) -> float:
  """Of an address in a srcset, by the width or the density that stands behind it."""
  with contextlib.suppress(ValueError):
    return float(part[-1][:-1]) if len(part) > 1 else 0.0
  return 0.0


def _extracted(tree: Any) -> str:
  return _trafilatura().extract(
      tree, output_format='markdown', include_images=True, include_formatting=True,
      include_tables=True, include_links=False, include_comments=False) or ''


def _image(record: Record, address: str) -> bytes | None:
  """The file behind an address; None where the input has none."""
  if address.startswith('data:'):
    kind, _, data = address.partition(',')
    with contextlib.suppress(ValueError):  # no base64
      return base64.b64decode(data) or None if kind.endswith(';base64') else None
    return None
  file = ''
  with contextlib.suppress(ValueError):  # no address, or with a zero byte
    file = _file(record, address)
  if not file or not os.path.isfile(file):
    return None
  with open(file, 'rb') as opened:
    return opened.read()


def _file(record: Record, address: str) -> str:
  """Path of the file behind an address, '' where it would be none of the input."""
  known = record.fields.get('images') or {}
  path = known.get(address) or known.get(urllib.parse.urljoin(record.lineage.url, address))
  top = os.path.realpath(record['path'][:-len(record['name'])] or '.')
  if not path:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme or parts.netloc:
      return ''
    beside = urllib.parse.unquote(parts.path).lstrip('/')
    path = os.path.join(os.path.dirname(record['name']), beside)
  file = os.path.realpath(os.path.join(top, path))
  # A page may name any file of the machine.
  return file if file.startswith(os.path.join(top, '')) else ''
