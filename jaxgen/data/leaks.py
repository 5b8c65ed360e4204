"""Finds samples that a set must not hold: those of an evaluation, by id, text or image (L127)."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures

import numpy as np

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.data.decode import DecodeError
from jaxgen.data.hashes import bits_apart
from jaxgen.data.hashes import image_hash
from jaxgen.data.hashes import NEAR
from jaxgen.data.hashes import text_hash
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Sample
from jaxgen.data.sources import Source

KEPT = 1000  # leaks that are named; further ones are counted
WINDOW = 256  # samples in memory at once


@dataclasses.dataclass(frozen=True)
class Held:
  """What must not be found.

  Attributes:
    ids: name of a sample -> name of the item. Plain numbers are left out: every set has them.
    texts: ``text_hash`` -> name of the item.
    hashes: u64[n], ``image_hash`` of images.
    images: the item of each hash.
  """

  ids: Mapping[str, str]
  texts: Mapping[bytes, str]
  hashes: np.ndarray
  images: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Leak:
  """A sample that holds something of an item.

  Attributes:
    kind: ``id``, ``text`` or ``image``.
    item: name of the item.
    sample: where the sample stands, or its id.
    bits: by which the hashes of two images differ.
  """

  kind: str
  item: str
  sample: str
  bits: int = 0


@dataclasses.dataclass
class Found:
  """What a search has seen.

  Attributes:
    records: samples that were read.
    unreadable: records that could not be read, or an image of which could not.
    count: samples' leaks in all.
    leaks: the first of them.
  """

  records: int = 0
  unreadable: int = 0
  count: int = 0
  leaks: list[Leak] = dataclasses.field(default_factory=list)


def held_of(items: Iterable[tuple[str, Iterable[str], Iterable[bytes | np.ndarray | FileImage]]],
            where: str, benchmark: str | None = None) -> Held:
  """What must not be found of some items.

  Args:
    items: name, texts and images of each; texts that are empty count for nothing.
    where, benchmark: the flag that names them and its value, for errors.

  Raises:
    UserError: an image that cannot be read.
  """
  ids, texts, images = {}, {}, []
  for name, own_texts, own_images in items:
    if not name.isdigit():
      ids[name] = name
    texts |= {text_hash(text): name for text in own_texts if text.strip()}
    try:
      hashes = [image_hash(image) for image in own_images]
    except DecodeError as error:
      raise user_error(where, benchmark, f'an image of the benchmark cannot be read ({error})'
                       ) from None
    images += [(found, name) for found in hashes if found is not None]
  return Held(ids, texts, np.array([found for found, _ in images], np.uint64),
              tuple(name for _, name in images))


def hashes_of(sample: Sample) -> list[np.uint64]:
  """``image_hash`` of every image of a sample that has one.

  Raises:
    DecodeError: an image that cannot be read.
  """
  hashes = (image_hash(part.image) for part in sample.images if part.image is not None)
  return [own for own in hashes if own is not None]


def leaks_of(sample: Sample, held: Held, bits: int = NEAR, *,
             hashes: Callable[[Sample], Iterable[np.uint64]] = hashes_of) -> list[Leak]:
  """What a sample holds of the items.

  Args:
    sample: with all its texts, their paraphrases too, and all its images.
    held: of ``held_of``.
    bits: by which the hashes of images may differ.
    hashes: those of the sample, asked for only where some are held.

  Raises:
    DecodeError: an image that cannot be read.
  """
  where, found = sample.origin or sample.id, []
  if sample.id in held.ids:
    found.append(Leak('id', held.ids[sample.id], where))
  for text in dict.fromkeys(text for part in sample.texts for text in (part.text, *part.variants)):
    if (item := held.texts.get(text_hash(text))) is not None:
      found.append(Leak('text', item, where))
  for own in hashes(sample) if len(held.hashes) else ():
    apart = bits_apart(held.hashes, own)  # [n]
    if apart.min() <= bits:
      found.append(Leak('image', held.images[apart.argmin()], where, int(apart.min())))
  return found


def search(source: Source, held: Held, *, bits: int = NEAR,
           progress: Callable[[int, int], None] = lambda done, total: None) -> Found:
  """Searches a source of any size, by threads, with ``WINDOW`` samples in memory.

  Args:
    source: of samples; broken ones are counted.
    held, bits: as for ``leaks_of``.
    progress: called with (samples read, samples in all).
  """
  found = Found()

  def one(index: int) -> list[Leak] | None:
    try:
      return leaks_of(source[index], held, bits)
    except (RecordError, DecodeError):
      return None

  indices = iter(range(len(source)))
  with futures.ThreadPoolExecutor() as threads:
    while window := list(itertools.islice(indices, WINDOW)):
      for leaks in threads.map(one, window):
        found.records += 1
        found.unreadable += leaks is None
        found.count += len(leaks or ())
        found.leaks += (leaks or [])[:KEPT - len(found.leaks)]
      progress(found.records, len(source))
  return found
