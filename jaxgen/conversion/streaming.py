"""Reads parameters shard by shard: of every file only what the devices at hand will hold.

A parameter is made from its tensors a few megabytes at a time, so a host never holds more than
its shards and a few such slabs, however large a tensor is.
"""

import functools
import itertools
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxgen.conversion.engine import Link
from jaxgen.conversion.engine import Tensor
from jaxgen.conversion.transforms import Box
from jaxgen.conversion.transforms import Shape
from jaxgen.conversion.transforms import sizes
from jaxgen.conversion.transforms import within
from jaxgen.core.mismatch import shorten

SLAB = 4 << 20  # bytes of a tensor that are read, checked and laid out at once
_PLAIN = 16 << 10  # bytes up to which a plain copy is as quick as any
_ALIGNMENT = 64  # bytes, as XLA wants it
# Bits that are all set in NaN and infinity, and in no other number: those of the exponent, and in
# e4m3fn, which has no infinity, all but the sign.
_NOT_FINITE = {'float8_e4m3fn': 0x7f, 'float8_e5m2': 0x7c, 'bfloat16': 0x7f80, 'float16': 0x7c00,
               'float32': 0x7f800000, 'float64': 0x7ff0000000000000}


@functools.cache
def _readers() -> Executor:
  """Threads that read, enough to keep a disk busy; reused, as each allocates its own memory."""
  return ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1)), 'read')


def read_boxes(links: Sequence[Link], tensors: Mapping[str, Tensor], boxes: Sequence[Box],
               shape: Shape, dtype: np.dtype) -> tuple[list[np.ndarray], set[str]]:
  """Reads parts of one parameter.

  Args:
    links: of the parameter, all of them.
    tensors: theirs by name.
    boxes: the parts, in the parameter.
    shape: of the parameter.
    dtype: of the result.

  Returns:
    ``(an array for each box, names of tensors with a number that is not finite)``.
  """
  arrays = [_aligned(sizes(box), dtype) for box in boxes]

  def fill(task: tuple[Link, Box]) -> str:
    link, slab = task
    values = link.read(tensors[link.theirs], slab)
    finite = _is_finite(values)
    values = values.astype(dtype, copy=False)
    region = _region(link, shape)
    placed = _global(link, slab, region)
    values = values if link.layer is None else values[None]
    for array, box in zip(arrays, boxes, strict=True):
      if (part := _overlap(box, placed)) is not None:  # that of a scalar is ()
        copy_reordered(array[*within(part, box), ...], values[*within(part, placed), ...])
    return '' if finite else link.theirs

  tasks = [(link, slab) for link in links for slab in _slabs(link, boxes, shape, dtype)]
  return arrays, set(_readers().map(fill, tasks)) - {''}


def read_sharded(links: Sequence[Link], tensors: Mapping[str, Tensor], sharding: NamedSharding,
                 shape: Shape, dtype: np.dtype, devices: Iterable[jax.Device]
                 ) -> tuple[dict[jax.Device, jax.Array], set[str]]:
  """Reads the shards of one parameter that these devices hold, and puts them there.

  Returns:
    ``(shard of each device, names of tensors with a number that is not finite)``.
  """
  indices = sharding.devices_indices_map(shape)
  bounds = {device: tuple(part.indices(size)[:2] for part, size in zip(indices[device], shape))
            for device in devices}
  distinct = list(dict.fromkeys(bounds.values()))  # replicas are read once
  boxes = [tuple(slice(*bound) for bound in bounds) for bounds in distinct]
  arrays, broken = read_boxes(links, tensors, boxes, shape, dtype)
  by_bounds = dict(zip(distinct, arrays, strict=True))
  shards = {device: jax.device_put(by_bounds[bound], device) for device, bound in bounds.items()}
  jax.block_until_ready(list(shards.values()))  # so that the next parameter finds memory free
  return shards, broken


def by_parameter(links: Sequence[Link]) -> dict[str, list[Link]]:
  """The links of every parameter of ours, by its path."""
  links = sorted(links, key=lambda link: link.path)
  return {path: list(group) for path, group in
          itertools.groupby(links, lambda link: link.path)}


def dtype_of(links: Sequence[Link], tensors: Mapping[str, Tensor]) -> np.dtype:
  """The dtype that holds all tensors of a parameter."""
  dtypes = {np.dtype(tensors[link.theirs].dtype) for link in links}
  return dtypes.pop() if len(dtypes) == 1 else np.dtype(jnp.result_type(*dtypes))


def warn_of(broken: Iterable[str], where: str) -> None:
  """Warns of tensors with numbers that are not finite, by name."""
  if names := sorted(broken):
    warnings.warn(f'{where}: {len(names)} tensors hold NaN or infinite numbers: {shorten(names)}',
                  stacklevel=3)


def copy_reordered(target: np.ndarray, source: np.ndarray) -> None:
  """``target[...] = source`` of one dtype, which may lie in memory in another order.

  A plain copy of a transposed array misses the cache at every element; XLA transposes a slab five
  times as fast.
  """
  bits = np.dtype(f'u{target.dtype.itemsize}')  # which numpy moves faster than bf16
  target, source = target.view(bits), source.view(bits)
  if (_fastest(target) != _fastest(source) and target.nbytes > _PLAIN
      and bits.itemsize <= 4 and (cpu := _cpu())):  # jax makes 32 bits of 64
    source = np.asarray(jax.device_put(source, cpu))
  target[...] = source


@functools.cache
def _cpu() -> jax.Device | None:
  """XLA's processor; None where ``JAX_PLATFORMS`` leaves it out."""
  try:
    return jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return None


def _aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
  """An empty array that a CPU device can take as it is, without a copy."""
  size = math.prod(shape) * dtype.itemsize
  memory = np.empty(size + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  return memory[start:start + size].view(dtype).reshape(shape)


def _slabs(link: Link, boxes: Sequence[Box], shape: Shape, dtype: np.dtype) -> list[Box]:
  """What a link must read for the boxes, in pieces whose bytes lie together in the file."""
  region = _region(link, shape)
  parts = [part for box in boxes if (part := _overlap(box, region)) is not None]
  if not parts:
    return []
  around = tuple(slice(min(p.start for p in dims), max(p.stop for p in dims))
                 for dims in zip(*parts, strict=True))
  needed = _local(link, around, region)
  count = math.ceil(math.prod(sizes(needed)) * dtype.itemsize / SLAB)
  axis = _slab_axis(link, needed) if count > 1 else None
  if axis is None:
    return [needed]
  start, stop = needed[axis].start, needed[axis].stop
  step = math.ceil((stop - start) / count)
  return [(*needed[:axis], slice(first, min(first + step, stop)), *needed[axis + 1:])
          for first in range(start, stop, step)]


def _slab_axis(link: Link, box: Box) -> int | None:
  """The dimension of ours along which a box is cut into rows of theirs; None where none is."""
  theirs = link.source(box)
  for axis, part in enumerate(box):
    middle = (part.start + part.stop) // 2
    half = link.source((*box[:axis], slice(part.start, middle), *box[axis + 1:]))
    if (middle > part.start and half[1:] == theirs[1:]
        and sizes(half[:1]) < sizes(theirs[:1])):
      return axis
  return None


def _region(link: Link, shape: Shape) -> Box:
  """Which part of its parameter a link fills."""
  box = [slice(0, size) for size in shape]
  if link.layer is not None:
    box[0] = slice(link.layer, link.layer + 1)
  if link.part is not None:
    box[link.rule.fuse + (link.layer is not None)] = link.part
  return tuple(box)


def _local(link: Link, box: Box, region: Box) -> Box:
  """A box of the parameter as one of the link's view."""
  return within(box, region)[0 if link.layer is None else 1:]


def _global(link: Link, box: Box, region: Box) -> Box:
  """The inverse of ``_local``."""
  box = box if link.layer is None else (slice(0, 1), *box)
  return tuple(slice(part.start + around.start, part.stop + around.start)
               for part, around in zip(box, region, strict=True))


def _overlap(first: Box, second: Box) -> Box | None:
  box = tuple(slice(max(a.start, b.start), min(a.stop, b.stop))
              for a, b in zip(first, second, strict=True))
  return box if all(part.start < part.stop for part in box) else None


def _fastest(array: np.ndarray) -> int:
  """The dimension whose neighbours lie together in memory; -1 for a scalar."""
  strides = [(stride, -dim) for dim, stride in enumerate(array.strides) if array.shape[dim] > 1]
  return -min(strides)[1] if strides else -1


def _is_finite(array: np.ndarray) -> bool:
  mask = _NOT_FINITE.get(array.dtype.name)
  if mask is None or array.size == 0:
    return True
  bits = array.view(np.dtype(f'u{array.dtype.itemsize}'))
  return bool(np.bitwise_and(bits, bits.dtype.type(mask)).max() != mask)
