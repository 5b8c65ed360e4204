"""Tensors of safetensors files: known from the header alone, read range by range.

The files may lie on a disk or in a bucket. Of a slice only the bytes that it needs are read, so a
host that holds a part of a model reads a part of the files; ``bytes_read`` counts them.
"""

import dataclasses
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from jaxgen.conversion.transforms import Box
from jaxgen.conversion.transforms import sizes
from jaxgen.conversion.transforms import whole
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket

DTYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
    'F8_E4M3': ml_dtypes.float8_e4m3fn, 'F8_E5M2': ml_dtypes.float8_e5m2, 'I64': np.int64,
    'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U64': np.uint64, 'U32': np.uint32,
    'U16': np.uint16, 'U8': np.uint8, 'BOOL': np.bool_,
}
# Further ones that the format knows: scales and numbers of block-quantised models, for example.
_OTHER_DTYPES = {'F4', 'F6_E2M3', 'F6_E3M2', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ', 'C64'}
UNSUPPORTED = ('tensors of this dtype are not supported; convert the model to bfloat16, or take '
               'its release that is not quantised')
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_GAP = {'disk': 512, 'bucket': 1 << 20}  # bytes that are sooner read than jumped over
_READAHEAD = 128 << 10  # bytes that Linux fetches ahead of a reader
_BLOCK = 4 << 20  # bytes read at once where gaps are read too


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """A tensor in a safetensors file; ``tensor[box]`` and ``np.asarray`` read it.

  Attributes:
    file: what reads the bytes.
    name: of the tensor.
    shape: sizes, known without reading.
    dtype: of the values.
    start: its first byte in the file.
  """

  file: 'SafetensorsFile'
  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  start: int

  def __getitem__(self, box: Box) -> np.ndarray:
    out = np.empty(sizes(box), self.dtype)
    self._fill(out.view(_bits(self.dtype)), box, self.start, self.shape)
    return out

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    array = self[whole(self.shape)]
    return array if dtype is None else array.astype(dtype)

  def _fill(self, out: np.ndarray, box: Box, start: int, shape: tuple[int, ...]) -> None:
    """Reads the box of an array of ``shape`` that begins at byte ``start``."""
    if out.size == 0:
      return
    item = self.dtype.itemsize
    row = math.prod(shape[1:]) * item
    if box[1:] == whole(shape[1:]):
      self.file.read_into(start + (box[0].start * row if box else 0), out)
    elif row - out[0].nbytes <= self.file.gap:
      self._fill_through(out, box, start, shape)
    else:
      for index in range(box[0].start, box[0].stop):
        self._fill(out[index - box[0].start], box[1:], start + index * row, shape[1:])

  def _fill_through(self, out: np.ndarray, box: Box, start: int, shape: tuple[int, ...]) -> None:
    """Reads whole rows, some at a time, and keeps what the box wants of them."""
    row = math.prod(shape[1:]) * self.dtype.itemsize
    step = max(1, _BLOCK // row)
    for first in range(box[0].start, box[0].stop, step):
      count = min(step, box[0].stop - first)
      rows = np.empty((count, *shape[1:]), out.dtype)
      self.file.read_into(start + first * row, rows)
      out[first - box[0].start:][:count] = rows[(slice(None), *box[1:])]


class SafetensorsFile(Mapping[str, StoredTensor]):
  """One safetensors file: its tensors by name, none of them read yet.

  Attributes:
    path: of the file.
    metadata: what its header says beside the tensors.
    bytes_read: of tensors so far.
    gap: bytes that are sooner read than jumped over.
  """

  def __init__(self, path: str):
    """Reads the header.

    Raises:
      UserError: a file that is damaged, cut short or none of safetensors, or with a dtype that
        is not supported.
    """
    self.path, self.bytes_read = str(path), 0
    self.metadata: dict[str, str] = {}
    self._lock, self._handle = threading.Lock(), None
    self.gap = _GAP['bucket' if in_bucket(self.path) else 'disk']
    try:
      self._tensors = dict(self._read_header())
    except UserError:
      raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:
      raise _damaged(self.path, error) from error

  def __getitem__(self, name: str) -> StoredTensor:
    return self._tensors[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._tensors)

  def __len__(self) -> int:
    return len(self._tensors)

  def read_into(self, offset: int, out: np.ndarray) -> None:
    """Fills a contiguous array with the bytes from ``offset`` on."""
    view, done = memoryview(out.reshape(-1)).cast('B'), 0
    if self._handle is None:
      self._open()
    while done < len(view):
      count = self._read_some(offset + done, view[done:])
      if not count:
        raise _damaged(self.path, f'ends at byte {offset + done}')
      done += count
    with self._lock:
      self.bytes_read += len(view)

  def _open(self) -> None:
    with self._lock:
      if self._handle is None:
        self._handle = (epath.Path(self.path).open('rb') if in_bucket(self.path)
                        else open(self.path, 'rb', buffering=0))

  def _read_some(self, offset: int, view: memoryview) -> int:
    if not in_bucket(self.path):
      if len(view) > _READAHEAD:  # several threads share the file, which defeats the system's own
        os.posix_fadvise(self._handle.fileno(), offset, len(view), os.POSIX_FADV_WILLNEED)
      return os.preadv(self._handle.fileno(), [view], offset)
    with self._lock:  # such a file has one position only
      self._handle.seek(offset)
      data = self._handle.read(len(view))
    view[:len(data)] = data
    return len(data)

  def _read_header(self) -> Iterator[tuple[str, StoredTensor]]:
    with epath.Path(self.path).open('rb') as file:
      size = int.from_bytes(file.read(8), 'little')
      length = epath.Path(self.path).stat().length
      if not 0 < size <= length - 8:
        raise ValueError(f'a header of {size} bytes in a file of {length}')
      header: dict[str, Any] = json.loads(file.read(size))
    self.metadata = dict(header.pop('__metadata__', None) or {})
    start, end = 8 + size, 8 + size
    for name, entry in header.items():
      if entry['dtype'] in _OTHER_DTYPES:
        raise user_error(f'{self.path}: {name}', entry['dtype'], UNSUPPORTED)
      dtype, shape = np.dtype(DTYPES[entry['dtype']]), tuple(entry['shape'])
      begin, stop = entry['data_offsets']
      if stop - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f'{name} has {stop - begin} bytes for the shape {shape}')
      end = max(end, start + stop)
      yield name, StoredTensor(self, name, shape, dtype, start + begin)
    if end != length:
      raise ValueError(f'{length} bytes instead of {end}')


def _bits(dtype: np.dtype) -> np.dtype:
  return np.dtype(f'u{dtype.itemsize}')


def _damaged(path: str, why: object) -> Exception:
  return user_error(path, None, f'damaged or cut short ({why}); copy the file again')
