"""From a sample to an example: decode, crop, write the prompt; one short function per task."""

import dataclasses
import logging
import threading
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.data.buckets import Size
from jaxgen.data.buckets import resize_and_crop
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import decode
from jaxgen.data.mixture import uniform
from jaxgen.data.packing import Example
from jaxgen.data.prompts import PromptWriter
from jaxgen.data.sample import Sample
from jaxgen.data.sources import Source

# A small data set is decoded once and kept; a large one is decoded anew at every visit.
CACHE_BYTES = 256 * 2**20
# A set of up to this many records is judged as a whole, a larger one from this many tries on.
JUDGED_FROM = 1000


@dataclasses.dataclass(frozen=True)
class Decoded:
  """A sample with its image at the sizes that its task needs.

  Attributes:
    sample: where it comes from; holds no image any more.
    target: uint8[H, W, 3] to be generated, None for the task ``caption``.
    seen: uint8[V, V, 3] for the language model, None for the task ``pair``.
  """

  sample: Sample
  target: np.ndarray | None
  seen: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Bad:
  """A record that cannot be decoded."""

  name: str
  reason: str


class DecodedSource:
  """Random access to the decoded records of a source; counts and names those that are broken.

  Args:
    source: gives samples with one image each.
    task: decides which sizes are made.
    data: ``config.data``.
    field: config field of the source, for errors.
  """

  def __init__(self, source: Source, task: str, data: ConfigDict, field: str):
    self._source, self._task, self._field = source, task, field
    self._target_size = (data.image_size, data.image_size) if task != 'caption' else None
    self._seen_size = (data.vision_size, data.vision_size) if task != 'pair' else None
    self._max_bad_share = data.max_bad_share
    per_record = 3 * sum(size[0] * size[1] for size in (self._target_size, self._seen_size) if size)
    self._keep = len(source) * per_record <= CACHE_BYTES
    self._kept: dict[int, Decoded] = {}
    self._lock = threading.Lock()
    self._tried = 0
    self.bad: dict[int, Bad] = {}

  @property
  def target_sizes(self) -> tuple[Size, ...]:
    """(height, width) that images to be generated are brought to."""
    return (self._target_size,) if self._target_size else ()

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Decoded | Bad:
    if index in self._kept:
      return self._kept[index]
    if index in self.bad:
      self._judge()
      return self.bad[index]
    sample = self._source[index]
    if len(sample.images) != 1:
      raise user_error(sample.origin, len(sample.images),
                       f'task {self._task} takes samples of exactly one image')
    try:
      decoded = self._decode(sample)
    except DecodeError as error:
      return self._set_aside(index, Bad(sample.origin or sample.id, str(error)))
    with self._lock:
      self._tried += 1
      if self._keep:
        self._kept[index] = decoded
    return decoded

  def _decode(self, sample: Sample) -> Decoded:
    image = decode(sample.images[0].image)
    target, seen = (resize_and_crop(image, size) if size else None
                    for size in (self._target_size, self._seen_size))
    return Decoded(dataclasses.replace(sample, parts=tuple(sample.texts)), target, seen)

  def _set_aside(self, index: int, bad: Bad) -> Bad:
    """Counts and logs a record that turns out to be broken."""
    with self._lock:
      known = index in self.bad  # another thread came upon it at the same time
      self._tried += not known
      self.bad[index] = bad
    if not known:
      logging.warning('skipped %s: %s', bad.name, bad.reason)
    self._judge()
    return bad

  def _judge(self) -> None:
    """Stops the run when too many records are broken, or all of them."""
    with self._lock:
      count, records = len(self.bad), min(len(self), max(self._tried, JUDGED_FROM))
      latest = list(self.bad.values())[-5:]
    if count > self._max_bad_share * records or count == len(self):
      named = ', '.join(f'{item.name} ({item.reason})' for item in latest)
      raise user_error(self._field, None, f'{count} of {records} records cannot be decoded, more '
                       f'than config.data.max_bad_share = {self._max_bad_share} allows: {named}; '
                       'mend or remove them, or raise the share')


class ExampleMaker:
  """Makes examples of one source's decoded records.

  Args:
    source: index of the source in the mixture.
    task: a key of ``TASKS``.
    writer: of the prompts.
    dropout: probability that the prompt is replaced by the empty one.
    seed: of the dropout.
  """

  def __init__(self, source: int, task: str, writer: PromptWriter, dropout: float, seed: int):
    self._source, self._make, self._writer = source, TASKS[task], writer
    self._dropout, self._seed = (0.0 if task == 'caption' else dropout), seed

  def __call__(self, position: int, decoded: Decoded | Bad) -> Example | Bad:
    """The example at ``position`` of the source's endless shuffled sequence.

    The position stands for record and epoch, so another epoch drops other captions.
    """
    if isinstance(decoded, Bad):
      return decoded
    example = self._make(decoded, self._source, self._writer)
    drop = uniform(self._seed, 'caption dropout', self._source, position) < self._dropout
    if not drop:
      return example
    empty = self._writer.empty()
    return dataclasses.replace(example, tokens=empty.tokens, image_index=empty.image_index,
                               loss_mask=empty.loss_mask, seen=())


def _image(decoded: Decoded, source: int, writer: PromptWriter) -> Example:
  """Image-only: the image conditions its own reconstruction (L087)."""
  prompt = writer.reconstruction(decoded.sample.origin)
  return Example(decoded.sample.id, source, prompt.tokens, prompt.image_index, prompt.loss_mask,
                 seen=(decoded.seen,), seen_is_target=True, targets=(decoded.target,))


def _pair(decoded: Decoded, source: int, writer: PromptWriter) -> Example:
  """Caption to image."""
  sample = decoded.sample
  prompt = writer.pair(_caption(sample), f'{sample.origin}: caption')
  return Example(sample.id, source, prompt.tokens, prompt.image_index, prompt.loss_mask,
                 targets=(decoded.target,))


def _describe(decoded: Decoded, source: int, writer: PromptWriter) -> Example:
  """Image to caption, for the next-token objective."""
  sample = decoded.sample
  prompt = writer.caption(_caption(sample), f'{sample.origin}: caption')
  return Example(sample.id, source, prompt.tokens, prompt.image_index, prompt.loss_mask,
                 seen=(decoded.seen,))


TASKS: dict[str, Callable[[Decoded, int, PromptWriter], Example]] = {
    'image': _image, 'pair': _pair, 'caption': _describe,
}


def _caption(sample: Sample) -> str:
  if not sample.texts or not sample.texts[0].text.strip():
    raise user_error(f'{sample.origin}: caption', None,
                     'missing, but the tasks pair and caption need one; add it, '
                     'or use the source with task image')
  return sample.texts[0].text
