"""Keeps what benchmarks test on out of training data: their ids, prompts and given images."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.leaks import hashes_of
from jaxgen.data.leaks import Held
from jaxgen.data.leaks import held_of
from jaxgen.data.leaks import leaks_of
from jaxgen.data.sample import FileImage

WORDS = 8  # of a prompt, at the least: "remove the dog" is nobody's
REASONS = {'id': 'id of a benchmark', 'text': 'prompt of a benchmark',
           'image': 'image of a benchmark'}


@dataclasses.dataclass(frozen=True)
class Known:
  """What benchmarks test on.

  Attributes:
    held: name of a benchmark -> what must not be found of it.
  """

  held: dict[str, Held] = dataclasses.field(default_factory=dict)

  def add(self, benchmark: str, items: Iterable[
      tuple[str, Sequence[str], Sequence[bytes | np.ndarray | FileImage]]]) -> None:
    """Adds the items of a benchmark: name, texts and images of each.

    Raises:
      UserError: an image that cannot be read.
    """
    self.held[benchmark] = held_of(
        ((name, [text for text in texts if len(text.split()) >= WORDS], images)
         for name, texts, images in items), '--against', benchmark)

  def digest(self) -> str:
    """Changes with whatever is known; '' of nothing."""
    if not self.held:
      return ''
    found = hashlib.sha256()
    for name, held in sorted(self.held.items()):
      parts = name, sorted(held.ids), sorted(held.texts), held.hashes.tolist()
      found.update(repr(parts).encode())
    return found.hexdigest()[:16]


def unleaked(record: Record, *, known: Known) -> Record | Dropped:
  """Drops samples with an id, a prompt or a near copy of an image that a benchmark tests on.

  Args:
    record: with ``sample``.
    known: the benchmarks.
  """
  sample = record['sample']
  own = functools.cache(lambda: hashes_of(sample))  # one decoding for all benchmarks
  for name, held in known.held.items():
    for leak in leaks_of(sample, held, hashes=lambda _: own()):
      return record.drop(REASONS[leak.kind], benchmark=name)
  return record
