"""Keeps what benchmarks test on out of training data: their prompts and given images."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable

import numpy as np
from PIL import Image

from jaxgen.curation.extras import extra
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.sample import FileImage

WORDS = 8  # of a prompt, at the least: "remove the dog" is nobody's
BITS = 4  # of 64 in which the hashes of two copies of an image may differ


@dataclasses.dataclass(frozen=True)
class Known:
  """Fingerprints of benchmarks.

  Attributes:
    texts: prompts as ``words`` has them -> name of the benchmark.
    images: uint64 perceptual hash -> name of the benchmark.
  """

  texts: dict[str, str] = dataclasses.field(default_factory=dict)
  images: dict[int, str] = dataclasses.field(default_factory=dict)

  def add(self, benchmark: str, texts: Iterable[str], images: Iterable[bytes | FileImage]) -> None:
    """Adds the items of a benchmark."""
    self.texts.update((words(text), benchmark) for text in texts
                      if len(words(text).split()) >= WORDS)
    self.images.update((image_hash(image), benchmark) for image in images)

  def digest(self) -> str:
    """Changes with whatever is known; '' of nothing."""
    if not (self.texts or self.images):
      return ''
    return hashlib.sha256(json.dumps([sorted(self.texts), sorted(self.images)]).encode()
                          ).hexdigest()[:16]


def unleaked(record: Record, *, known: Known) -> Record | Dropped:
  """Drops samples with a prompt or a near copy of an image that a benchmark tests on.

  Args:
    record: with ``sample``.
    known: the benchmarks.
  """
  sample = record['sample']
  for text in (text for part in sample.texts for text in (part.text, *part.variants)):
    if found := known.texts.get(words(text)):
      return record.drop('prompt of a benchmark', benchmark=found)
  hashes = np.fromiter(known.images, np.uint64, len(known.images))
  for part in sample.images if len(hashes) else ():
    if part.image is not None:
      apart = np.bitwise_count(hashes ^ np.uint64(image_hash(part.image)))
      if apart.min() <= BITS:
        found = known.images[int(hashes[apart.argmin()])]
        return record.drop('image of a benchmark', benchmark=found)
  return record


def words(text: str) -> str:
  """A text without case, punctuation and spacing."""
  return ' '.join(re.findall(r'\w+', text.casefold()))


def image_hash(image: bytes | np.ndarray | FileImage) -> int:
  """64 bits that resizing and compression hardly change: the perceptual hash of ImageHash."""
  imagehash = extra('imagehash', 'ImageHash')
  bits = imagehash.phash(Image.fromarray(decode(image))).hash
  return int(np.packbits(bits).view('>u8')[0])
