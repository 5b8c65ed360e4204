"""A cache of latents on disk, each keyed by a digest of all that its value depends on.

A cache is a folder. ``info.json`` holds in clear what all entries depend on: the autoencoder, its
weights, dtypes. ``latents-<name>-<n>.arrayrecord`` holds n entries, a key of 16 bytes and float32
values each, followed by one record with the n keys. Caches of image tokens and of prompt states are
such folders too. Files are written under another name and renamed when they are complete, so that
whatever has its name is whole.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxgen.core import formats
from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.core.files import writing
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import file_bytes
from jaxgen.data.example import Size
from jaxgen.data.sample import FileImage

VERSION = 2  # of keys and files; and of how images are decoded and fitted
KEY_BYTES = 16
INFO_FILE = 'info.json'
FIELD = 'config.data.cache'
LATENTS = 'latents'  # stem of files
COMMAND = '`jaxgen data cache --config=FILE --out=DIR`'
_PARTIAL = '.partial'
_SUFFIX = '.arrayrecord'


def image_key(image: bytes | np.ndarray | FileImage, size: Size, like: Size | None,
              mode: str) -> bytes:
  """The key of an image's latents: its content, never its name, and how it is fitted.

  Args:
    image: as a part of a sample has it; a file is read.
    size, like, mode: as ``images.fit_image`` takes them.

  Raises:
    DecodeError: the file cannot be read.
  """
  if isinstance(image, FileImage):
    image = file_bytes(image)
  if isinstance(image, np.ndarray):
    return entry_key('array', image.shape, np.ascontiguousarray(image).data, size, like, mode)
  return entry_key('file', image, size, like, mode)


def entry_key(*inputs: Any) -> bytes:
  """16 bytes that stand for all inputs of an entry; buffers count by their bytes."""
  digest = hashlib.blake2b(digest_size=KEY_BYTES)
  for value in inputs:
    data = value if isinstance(value, (bytes, memoryview)) else json.dumps(value).encode()
    digest.update(memoryview(data).nbytes.to_bytes(8, 'little'))
    digest.update(data)
  return digest.digest()


def claim(folder: str, fields: Mapping[str, Any], command: str = COMMAND) -> None:
  """Makes a cache for entries that depend on ``fields``, or checks that one there is such.

  Raises:
    UserError: the folder is a cache of other fields; names the first that differs.
  """
  file = epath.Path(folder) / INFO_FILE
  if not file.exists():
    write_text(file, json.dumps({'version': VERSION} | dict(fields), indent=2))
  check(folder, fields, '--out', command)
  for left in file.parent.glob(f'*{_PARTIAL}'):  # of a run that was killed
    left.unlink()


def check(folder: str, fields: Mapping[str, Any], where: str = FIELD, command: str = COMMAND
          ) -> None:
  """Raises a ``UserError`` where the entries of a cache depend on other values than ``fields``;
  ``command`` writes such a cache."""
  now = json.loads(json.dumps({'version': VERSION} | dict(fields)))
  then = _read_info(folder, where, command)
  formats.check(then, VERSION, f'{folder}/{INFO_FILE}', 'version')
  for name in sorted(now.keys() | then.keys(), key=lambda name: (name != 'version', name)):
    if now.get(name) != then.get(name):
      raise user_error(where, folder, f'this cache was written with {name} = '
                       f'{then.get(name)!r}, and now it is {now.get(name)!r}; write another one '
                       f'with {command}, or restore the old value')


class Cache:
  """Random access to the entries of a cache, by key; for any number of threads."""

  def __init__(self, folder: str, where: str = FIELD, stem: str = LATENTS, dtype: str = 'float32',
               command: str = COMMAND):
    """Reads the keys of all files.

    Args:
      folder: that ``jaxgen data cache`` wrote.
      where: the field or flag that names it, for errors.
      stem: of its files.
      dtype: of the values.
      command: that writes such a cache, for errors.

    Raises:
      UserError: no cache there, or a damaged file.
    """
    # Imported here: only runs with a cache need it.
    from array_record.python import array_record_data_source
    _read_info(folder, where, command)
    self.folder, self._dtype, self._command = folder, jnp.dtype(dtype), command
    files = sorted(epath.Path(folder).glob(f'{stem}-*{_SUFFIX}'))
    counts = [int(file.name.removesuffix(_SUFFIX).rpartition('-')[2]) for file in files]
    starts = np.cumsum([0, *(count + 1 for count in counts)])  # the keys are a record too
    self._records, self._files, self._starts = (), files, starts
    if files:
      with self._reading(files[0].parent):
        self._records = array_record_data_source.ArrayRecordDataSource(list(map(str, files)))
    keys = b''.join(self._read(int(start) + count) for start, count in zip(starts, counts))
    places = [start + np.arange(count) for start, count in zip(starts, counts)]
    halves = np.frombuffer(keys, '>u8').reshape(-1, 2).astype(np.uint64)
    order = np.argsort(halves[:, 0])
    self._high, self._low = halves[order, 0], halves[order, 1]
    self._places = np.concatenate([np.zeros(0, np.int64), *places])[order]

  def __len__(self) -> int:
    """Entries; one that two processes wrote counts twice."""
    return len(self._places)

  def __contains__(self, key: bytes) -> bool:
    return self._place(key) is not None

  def get(self, key: bytes, shape: tuple[int, int]) -> np.ndarray | None:
    """The entry f32[shape], None where there is none.

    Raises:
      DecodeError: the image could not be decoded when the cache was written.
      UserError: a damaged file.
    """
    data = self.read(key)
    if data is None:
      return None
    values = np.frombuffer(data, self._dtype)
    if not values.size:
      raise DecodeError('could not be decoded when the cache was written')
    if values.size != shape[0] * shape[1]:
      raise self._damaged(self._file(self._place(key)))
    return values.reshape(shape).astype(np.float32, copy=False)

  def read(self, key: bytes) -> bytes | None:
    """The bytes of an entry, None where there is none; raises a ``UserError`` as ``get``."""
    place = self._place(key)
    if place is None:
      return None
    data = self._read(place)
    if data[:KEY_BYTES] != key:
      raise self._damaged(self._file(place))
    return data[KEY_BYTES:]

  def _place(self, key: bytes) -> int | None:
    high, low = np.frombuffer(key, '>u8').astype(np.uint64)
    index = int(np.searchsorted(self._high, high))
    while index < len(self._high) and self._high[index] == high:
      if self._low[index] == low:
        return int(self._places[index])
      index += 1
    return None

  def _read(self, place: int) -> bytes:
    with self._reading(self._file(place)):
      return self._records[place]

  def _file(self, place: int) -> epath.Path:
    return self._files[int(np.searchsorted(self._starts, place, 'right')) - 1]

  def _damaged(self, file: epath.Path, reason: str = 'other entries than its keys say'
               ) -> Exception:
    return user_error(str(file), None, f'damaged ({reason}); remove this file and run '
                      f'{self._command} again, which writes what is missing')

  @contextlib.contextmanager
  def _reading(self, file: epath.Path) -> Iterator[None]:
    """Names the file that turns out to be damaged."""
    try:
      yield
    except (RuntimeError, ValueError, OSError, IndexError) as error:
      raise self._damaged(file, ' '.join(str(error).split())[:100]) from error


class Writer:
  """Adds entries to a cache; a file is complete after ``every`` of them, and at ``close``."""

  def __init__(self, folder: str, every: int, stem: str = LATENTS, dtype: str = 'float32'):
    self._folder, self._every, self._stem, self._dtype = folder, every, stem, jnp.dtype(dtype)
    self._keys: list[bytes] = []
    self._file, self._partial = None, ''

  def add(self, key: bytes, values: np.ndarray) -> None:
    """Writes one entry, f[tokens, C]; without tokens it stands for an image that is broken.

    Raises:
      UserError: the disk is full.
    """
    self.write(key, np.ascontiguousarray(values, self._dtype).tobytes())

  def write(self, key: bytes, data: bytes) -> None:
    """Writes one entry.

    Raises:
      UserError: the disk is full.
    """
    with _writing(self._folder):
      if self._file is None:
        from array_record.python import array_record_module
        name = f'{self._stem}-{uuid.uuid4().hex[:12]}{_PARTIAL}'
        self._partial = os.path.join(self._folder, name)
        # Groups of one record, because training reads single entries in random order; floats
        # hardly shrink.
        self._file = array_record_module.ArrayRecordWriter(
            self._partial, 'group_size:1,uncompressed')
      self._file.write(key + data)
    self._keys.append(key)
    if len(self._keys) == self._every:
      self.close()

  def close(self) -> None:
    """Completes the file that was begun, if any."""
    if self._file is None:
      return
    with _writing(self._folder):
      self._file.write(b''.join(self._keys))
      self._file.close()
      stem = self._partial.removesuffix(_PARTIAL)
      os.rename(self._partial, f'{stem}-{len(self._keys)}{_SUFFIX}')
    self._file, self._keys = None, []


def read_field(folder: str, name: str, where: str, command: str) -> Any:
  """A field of ``info.json``; raises a ``UserError`` where the cache holds something else."""
  info = _read_info(folder, where, command)
  if name not in info:
    raise user_error(where, folder, f'a cache of something else (without {name}); write one with '
                     f'{command}')
  return info[name]


def _read_info(folder: str, where: str, command: str) -> dict[str, Any]:
  file = epath.Path(folder) / INFO_FILE
  if not file.exists():
    raise user_error(where, folder, f'no cache there; write one with {command}')
  return read_json(file, f'remove the folder and write the cache again with {command}')


def _writing(folder: str) -> contextlib.AbstractContextManager[None]:
  """Names the folder that cannot be written to."""
  return writing('--out', folder, 'make room and run the command again, which goes on with what is '
                 'missing')
