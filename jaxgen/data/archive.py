"""Writes any source as sharded ArrayRecord files, whole or not at all."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
from array_record.python import array_record_module

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import decode
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Sample
from jaxgen.data.sample import encoded
from jaxgen.data.sample import to_bytes
from jaxgen.data.sources import Source

INFO_FILE = 'info.json'


@dataclasses.dataclass(frozen=True)
class Archive:
  """What was written.

  Attributes:
    samples: how many.
    skipped: name -> reason of each record that could not be read or decoded.
  """

  samples: int
  skipped: dict[str, str]


def write_archive(source: Source, out: str, *, shards: int = 1,
                  progress: Callable[[int, int], None] = lambda done, total: None) -> Archive:
  """Writes ``out/data-00000-of-0000N.arrayrecord`` ... in the order of the source.

  Images keep their encoding and are decoded only to see that they can be. Everything is written
  to a temporary folder next to ``out``, which is renamed at the end.

  Args:
    source: what to write.
    out: a folder that does not exist yet.
    shards: number of files.
    progress: called with (records done, records in all) after each record.

  Raises:
    UserError: ``out`` exists, there is no sample to write, or the disk is full.
  """
  if os.path.exists(out):
    raise user_error('--out', out, 'exists already; choose another folder or remove it')
  if not 1 <= shards <= len(source):
    raise user_error('--shards', shards, f'use 1 to {len(source)}, the number of records')
  with _renamed_at_end(out) as folder:
    archive = _write(source, folder, shards, progress)
    if not archive.samples:
      name, reason = next(iter(archive.skipped.items()))
      raise user_error('--path', None, f'none of the {len(archive.skipped)} records can be '
                       f'used; the first is {name}: {reason}')
    with open(os.path.join(folder, INFO_FILE), 'w') as file:
      json.dump(dataclasses.asdict(archive), file, indent=2)
  return archive


def _write(source: Source, folder: str, shards: int,
           progress: Callable[[int, int], None]) -> Archive:
  samples, skipped, total = 0, {}, len(source)
  for shard in range(shards):
    path = os.path.join(folder, f'data-{shard:05d}-of-{shards:05d}.arrayrecord')
    # Groups of one record, because training reads single records in random order.
    with contextlib.closing(array_record_module.ArrayRecordWriter(path, 'group_size:1')) as writer:
      for index in range(shard * total // shards, (shard + 1) * total // shards):
        name = ''
        try:
          sample = source[index]
          name = sample.origin or sample.id
          writer.write(to_bytes(_read(sample)))
          samples += 1
        except RecordError as error:
          skipped[error.where] = error.reason
        except DecodeError as error:
          skipped[name] = str(error)
        progress(index + 1, total)
  return Archive(samples, skipped)


def _read(sample: Sample) -> Sample:
  """The sample with every image as bytes that are known to decode.

  A sample with one broken image is skipped as a whole: the others would mean something else.
  """
  images = [part.image for part in sample.images if part.image is not None]
  for number, image in enumerate(images, start=1):
    try:
      decode(image)
    except DecodeError as error:
      if len(images) == 1:
        raise
      raise DecodeError(f'image {number} of {len(images)}{_named(image)}: {error}') from error
  return dataclasses.replace(sample, parts=tuple(
      part if part.image is None else dataclasses.replace(part, image=encoded(part.image))
      for part in sample.parts))


def _named(image: bytes | np.ndarray | FileImage) -> str:
  return f', {image.path}' if isinstance(image, FileImage) else ''


@contextlib.contextmanager
def _renamed_at_end(out: str) -> Iterator[str]:
  """A temporary folder that becomes ``out`` if all goes well, and vanishes if not."""
  folder = f'{out.rstrip("/")}.partial-{os.getpid()}'
  os.makedirs(folder)
  try:
    yield folder
    os.rename(folder, out)
  except OSError as error:
    raise user_error('--out', out, f'could not be written ({error.strerror or error}); '
                     'nothing was left behind; make room or choose another disk') from error
  finally:
    shutil.rmtree(folder, ignore_errors=True)
