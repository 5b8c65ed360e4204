"""Checksums of arrays, by which a restore knows that it gives what was saved.

The files of a checkpoint have no checksums of their own. These are computed shard by shard, on the
devices where the arrays lie, and depend on values, dtype and position only: not on the mesh, nor
on which process wrote what. A checksum is sum_i w_i bits_i mod 2^32 over the elements i, where the
w_i are odd, so that one changed element always shows.
"""

import functools
import json
import math
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.core.mismatch import shorten
from jaxgen.sharding import memory

FILE = 'checksums.json'
ITEM = 'data'  # of a checkpoint; holds the checksums of the other items
KEY = 'checksums'
_CHUNK = 1 << 19  # elements that numpy takes at a time

Sums = dict[str, int]


def of_arrays(tree: Any) -> Sums:
  """The checksum of each array on the devices, by path; every process must call this."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  parts = {jax.tree_util.keystr(path, simple=True, separator='/'):
           [_of_shard(shard, leaf.shape) for shard in leaf.addressable_shards
            if shard.replica_id == 0] for path, leaf in leaves}
  sums = {name: sum(map(int, part)) % 2**32 for name, part in jax.device_get(parts).items()}
  return sums | _over_processes({name: sums[name] for name, (_, leaf) in zip(parts, leaves)
                                 if not leaf.is_fully_addressable})


def of_numpy(array: np.ndarray, starts: Sequence[int] = (), shape: Sequence[int] = ()) -> int:
  """The same of an array on the host, some elements at a time.

  Args:
    array: all of it, or a block of one of ``shape``.
    starts: first index of the block along each axis.
    shape: of the whole array.
  """
  if not starts:
    array = np.ascontiguousarray(array).reshape(-1)
    array = array.view(np.dtype(f'u{min(array.dtype.itemsize, 4)}'))
    starts, shape = (0,), array.shape
  strides, total = _strides(shape), 0
  for block in _blocks(array.shape):
    index = np.zeros((), np.uint32)
    for axis, part in enumerate(block):
      places = np.arange(part.start, part.stop, dtype=np.uint64) + np.uint64(starts[axis])
      index = index[..., None] + (places * np.uint64(strides[axis] % 2**32)).astype(np.uint32)
    bits = np.ascontiguousarray(array[block])
    bits = bits.view(np.dtype(f'u{bits.dtype.itemsize}')).astype(np.uint32)
    total += int(np.sum(bits * _weights(index), dtype=np.uint32))
  return total % 2**32


def check(found: Mapping[str, int], saved: Mapping[str, int], where: str, fix: str) -> None:
  """Compares checksums; arrays that were saved without one pass.

  Raises:
    UserError: an array has changed since it was saved.
  """
  changed = sorted(name for name, value in found.items() if saved.get(name, value) != value)
  if changed:
    raise user_error(where, None, f'damaged ({len(changed)} of {len(found)} arrays are not as they '
                     f'were saved: {shorten(changed)}); {fix}')


def write(store: epath.Path, sums: Sums) -> None:
  """Writes the checksums of a store of arrays into its folder; for one process."""
  write_text(store / FILE, json.dumps(sums, indent=0))


def read(store: epath.Path) -> Sums:
  """The checksums of a store, of which an older one has none.

  Args:
    store: folder that ``write`` was called with, or of an item of a checkpoint.
  """
  fix = 'copy the folder again, or use another checkpoint'
  if (store / FILE).exists():
    return read_json(store / FILE, fix)
  beside = store.parent / ITEM / 'metadata'  # the file of Orbax's JSON items
  sums = read_json(beside, fix).get(KEY, {}) if beside.exists() else {}
  start = f'{store.name}/'
  return {name.removeprefix(start): value for name, value in sums.items()
          if name.startswith(start)}


def _of_shard(shard: jax.Shard, shape: tuple[int, ...]) -> int | jax.Array:
  """Its part of the checksum of an array of ``shape``, by numpy where it lies in this process."""
  starts = tuple(part.start or 0 for part in shard.index)
  data = shard.data
  if shard.device.platform == 'cpu':
    return of_numpy(np.asarray(data), starts, shape)
  if data.sharding.memory_kind == memory.HOST:
    data = jax.device_put(data, data.sharding.with_memory_kind('device'))
  return _sum(data, np.array(starts, np.uint32), shape)


def _over_processes(sums: Sums) -> Sums:
  """Added up over all processes, each of which has a part of the arrays."""
  if not sums:
    return {}
  mine = np.array(list(sums.values()), np.uint32)
  added = multihost_utils.process_allgather(mine).sum(axis=0, dtype=np.uint32)
  return dict(zip(sums, added.tolist(), strict=True))


def _strides(shape: Sequence[int]) -> list[int]:
  """How far the next element along each axis is, in elements."""
  return [math.prod(shape[axis + 1:]) for axis in range(len(shape))]


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
  """Blocks of at most ``_CHUNK`` elements that make up the shape, which has an axis or more."""
  axis = next((axis for axis in range(len(shape)) if math.prod(shape[axis + 1:]) <= _CHUNK), 0)
  step = max(1, _CHUNK // max(1, math.prod(shape[axis + 1:])))
  rest = tuple(slice(0, size) for size in shape[axis + 1:])
  for outer in np.ndindex(shape[:axis]):
    lead = tuple(slice(place, place + 1) for place in outer)
    for start in range(0, shape[axis], step):
      yield (*lead, slice(start, min(start + step, shape[axis])), *rest)


@functools.partial(jax.jit, static_argnums=2)
def _sum(block: jax.Array, starts: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """u32[] of a block of an array of ``shape`` that begins at ``starts``."""
  if block.dtype == jnp.bool_:
    bits = block.astype(jnp.uint32)
  else:
    bits = jax.lax.bitcast_convert_type(block, jnp.dtype(f'u{block.dtype.itemsize}'))
  index = jnp.zeros(block.shape, jnp.uint32)
  for axis, stride in enumerate(_strides(shape)):
    places = jax.lax.broadcasted_iota(jnp.uint32, block.shape, axis) + starts[axis]
    index = index + places * np.uint32(stride % 2**32)
  return jnp.sum(bits.astype(jnp.uint32) * _weights(index), dtype=jnp.uint32)


def _weights(index):
  """Odd numbers u32 that look random, for positions u32."""
  mixed = index * np.uint32(0x9E3779B1)
  return (mixed ^ (mixed >> np.uint32(15))) | np.uint32(1)
