"""What stages pass on: a record with its lineage, or a record that was dropped and why."""

import dataclasses
import io
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.data import sample as samples
from jaxgen.data.sample import Sample

UNKNOWN = 'unknown'
Facts = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Lineage:
  """Where a record comes from.

  Attributes:
    source: the input that it was made from: a path, or set:record.
    licence: of that input, as an SPDX name where there is one; ``unknown`` where nobody said.
    url: of that input, '' where it has none.
    notes: what stages measured or decided on the way, JSON values by name.
  """

  source: str
  licence: str = UNKNOWN
  url: str = ''
  notes: Facts = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Dropped:
  """A record that goes no further.

  Attributes:
    record: as the stage got it.
    reason: a few words, the same for all that share it: they are counted by it.
    facts: what led to it, JSON values by name.
  """

  record: 'Record'
  reason: str
  facts: Facts


@dataclasses.dataclass(frozen=True)
class Record:
  """One record between two stages.

  Attributes:
    id: unique within the run.
    fields: values by name: JSON values, bytes, arrays, or a ``Sample``. Images are the bytes of
      image files or uint8[H, W, 3].
    lineage: where it comes from.
  """

  id: str
  fields: Mapping[str, Any]
  lineage: Lineage

  def __getitem__(self, name: str) -> Any:
    return self.fields[name]

  def having(self, **fields: Any) -> 'Record':
    """The record with these fields added or replaced."""
    return dataclasses.replace(self, fields={**self.fields, **fields})

  def without(self, *names: str) -> 'Record':
    """The record without these fields; what is no longer needed need not be carried on."""
    return dataclasses.replace(self, fields={
        name: value for name, value in self.fields.items() if name not in names})

  def child(self, name: str, **fields: Any) -> 'Record':
    """One of several records that are made from this one; ``name`` tells them apart."""
    return dataclasses.replace(self.having(**fields), id=f'{self.id}/{name}')

  def joined(self, *others: 'Record') -> 'Record':
    """The record as one that is made of others too: its id names them all, its licence is all of
    theirs, and its lineage notes where the others come from."""
    together = (self, *others)
    licences = sorted({each.lineage.licence for each in together})
    lineage = dataclasses.replace(self.lineage, licence=' AND '.join(licences))
    made = dataclasses.replace(self, id='+'.join(each.id for each in together), lineage=lineage)
    return made.noting(others=[dict(source=each.lineage.source, url=each.lineage.url)
                               for each in others])

  def noting(self, **notes: Any) -> 'Record':
    """The record with JSON values added to its lineage, which the sample keeps."""
    lineage = dataclasses.replace(self.lineage, notes={**self.lineage.notes, **notes})
    return dataclasses.replace(self, lineage=lineage)

  def drop(self, reason: str, **facts: Any) -> Dropped:
    """What a stage returns in place of a record that is to go no further."""
    return Dropped(self, reason, facts)

  def rng(self, seed: int = 0) -> np.random.Generator:
    """Random numbers that depend on the id and the seed only, whatever runs where and when."""
    return np.random.default_rng((seed, zlib.crc32(self.id.encode())))


def to_bytes(record: Record) -> bytes:
  """The record as bytes: a JSON header, then images, arrays and samples one after another.

  Tuples come back as lists.
  """
  blobs: list[bytes] = []

  def plain(value: Any) -> Any:
    for kind, (of_type, packed, _) in _BLOBS.items():
      if isinstance(value, of_type):
        blobs.append(packed(value))
        return {kind: len(blobs[-1])}
    if isinstance(value, Mapping):
      return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value

  header = json.dumps(dict(id=record.id, fields=plain(record.fields),
                           lineage=dataclasses.asdict(record.lineage))).encode()
  return b''.join([len(header).to_bytes(4, 'little'), header, *blobs])


def from_bytes(data: bytes) -> Record:
  """Reads what ``to_bytes`` wrote."""
  start = 4 + int.from_bytes(data[:4], 'little')
  header = json.loads(data[4:start])

  def whole(value: Any) -> Any:
    nonlocal start
    if isinstance(value, list):
      return [whole(each) for each in value]
    if not isinstance(value, dict):
      return value
    if len(value) == 1 and (kind := next(iter(value))) in _BLOBS:
      blob, start = data[start:start + value[kind]], start + value[kind]
      return _BLOBS[kind][2](blob)
    return {name: whole(each) for name, each in value.items()}

  return Record(header['id'], whole(header['fields']), Lineage(**header['lineage']))


def _array_bytes(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=False)
  return buffer.getvalue()


# Kind of a value that is no JSON: its type, to bytes and back.
_BLOBS = {
    '$bytes': (bytes, bytes, bytes),
    '$array': (np.ndarray, _array_bytes, lambda data: np.load(io.BytesIO(data))),
    '$sample': (Sample, samples.to_bytes, lambda data: samples.from_bytes(data, 'record')),
}
