"""Writes any source as sharded ArrayRecord files, whole or not at all."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable

import numpy as np
from array_record.python import array_record_module

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_new
from jaxgen.core.files import new_folder
from jaxgen.core.files import write_text
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
    out: a folder that is empty or does not exist yet.
    shards: number of files.
    progress: called with (records done, records in all) after each record.

  Raises:
    UserError: ``out`` is not empty or cannot be written, or there is no sample to write.
  """
  check_new(out)
  if not 1 <= shards <= len(source):
    raise user_error('--shards', shards, f'use 1 to {len(source)}, the number of records')
  with new_folder(out) as folder:
    archive = _write(source, str(folder), shards, progress)
    if not archive.samples:
      name, reason = next(iter(archive.skipped.items()))
      raise user_error('--path', None, f'none of the {len(archive.skipped)} records can be '
                       f'used; the first is {name}: {reason}')
    write_text(folder / INFO_FILE, json.dumps(dataclasses.asdict(archive), indent=2))
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
