"""What a chunk was made of: counts by stage and reason, licences, and examples for the report."""

import base64
import dataclasses
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxgen.core.image_files import to_jpeg
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.decode import DecodeError
from jaxgen.data.sample import Sample

EXAMPLES = 2  # of what each stage keeps, and of each of its reasons, in one chunk
SHOWING = 256  # chunks of a run that keep examples, about: a run may have a million
PICTURES, SIDE = 4, 112  # of an example, and pixels of the longer side


@dataclasses.dataclass
class StageTally:
  """Of one stage.

  Attributes:
    most: examples of a kind.
    entered, left: records before and behind it.
    dropped: reason -> records.
    kept, examples: of what left, and by the reason of what was dropped; see ``example``.

  Args:
    before: of the same stage, which this one is merged into: examples that will find no room behind
      those that it has are not made.
  """

  most: int
  entered: int = 0
  left: int = 0
  dropped: dict[str, int] = dataclasses.field(default_factory=dict)
  kept: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  examples: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
  before: dataclasses.InitVar['StageTally | None'] = None

  def __post_init__(self, before: 'StageTally | None'):
    self._before = before

  def add(self, made: Record | Dropped) -> None:
    """Counts what the stage has made."""
    if isinstance(made, Dropped):
      self.dropped[made.reason] = self.dropped.get(made.reason, 0) + 1
      shown = self.examples.setdefault(made.reason, [])
      earlier = self._before.examples.get(made.reason, ()) if self._before else ()
      if len(earlier) + len(shown) < self.most:
        shown.append(example(made.record, made.facts))
    else:
      self.left += 1
      earlier = self._before.kept if self._before else ()
      if len(earlier) + len(self.kept) < self.most:
        self.kept.append(example(made, made.lineage.notes))

  def merge(self, other: 'StageTally') -> None:
    """Adds what comes behind in the order of the input."""
    self.entered += other.entered
    self.left += other.left
    self.kept = [*self.kept, *other.kept][:self.most]
    for reason, count in other.dropped.items():
      self.dropped[reason] = self.dropped.get(reason, 0) + count
    for reason, shown in other.examples.items():
      self.examples[reason] = [*self.examples.get(reason, ()), *shown][:self.most]


@dataclasses.dataclass
class Tally:
  """Of one chunk, or of a whole run.

  Attributes:
    stages: in their order.
    licences: licence -> samples.
  """

  stages: list[StageTally]
  licences: dict[str, int] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, count: int, most: int) -> 'Tally':
    """An empty one of so many stages, with ``most`` examples of a kind."""
    return cls([StageTally(most) for _ in range(count)])

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Tally':
    """Reads ``dataclasses.asdict`` of one."""
    return cls([StageTally(**stage) for stage in value['stages']], value['licences'])

  def behind(self) -> 'Tally':
    """An empty one of inputs that come behind, to be merged into this one in their order."""
    return Tally([StageTally(stage.most, before=stage) for stage in self.stages])

  def merge(self, other: 'Tally') -> None:
    """Adds another one of the same stages, which comes behind."""
    for stage, added in zip(self.stages, other.stages, strict=True):
      stage.merge(added)
    for licence, count in other.licences.items():
      self.licences[licence] = self.licences.get(licence, 0) + count


def example(record: Record, facts: Mapping[str, Any]) -> dict[str, Any]:
  """What the report shows of a record: id, source, facts, texts and small pictures (base64)."""
  return dict(id=record.id, source=record.lineage.source, facts=dict(facts),
              texts=[text[:200] for text in _texts(record.fields.values())][:3],
              pictures=[_thumbnail(image) for image, _ in zip(_images(record), range(PICTURES))])


def _images(record: Record) -> Iterator[np.ndarray]:
  """The images among the fields, those of a sample first."""
  own = [value for value in record.fields.values() if isinstance(value, Sample)]
  found: Sequence[Any] = ([part.image for part in own[0].images] if own
                          else _flat(record.fields.values()))
  for value in found:
    if value is not None:
      try:
        yield decode(value)
      except DecodeError:
        continue


def _flat(values: Iterable[Any]) -> list[Any]:
  return [each for value in values
          for each in (_flat(value) if isinstance(value, list | tuple) else [value])
          if isinstance(each, bytes | np.ndarray)]


def _texts(values: Iterable[Any]) -> list[str]:
  return [text for value in values
          for text in ([part.text for part in value.texts] if isinstance(value, Sample)
                       else [value] if isinstance(value, str) else [])]


def _thumbnail(image: np.ndarray) -> str:
  picture = Image.fromarray(image)
  picture.thumbnail((SIDE, SIDE))
  return base64.b64encode(to_jpeg(picture, quality=80)).decode()
