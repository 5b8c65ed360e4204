"""Checksums of arrays, by which a restore knows that it gives what was saved.

The files of a checkpoint have no checksums of their own. These are computed on the devices where
the arrays lie, and depend on values, dtype and position only: not on the mesh, nor on which process
wrote what. A checksum is sum_i w_i bits_i mod 2^32 over the elements i, where the w_i are odd, so
that one changed element always shows.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.core.mismatch import shorten
from jaxgen.sharding import memory
from jaxgen.sharding import partition

FILE = 'checksums.json'
ITEM = 'data'  # of a checkpoint; holds the checksums of the other items
KEY = 'checksums'
_CHUNK = 1 << 22  # elements

Sums = dict[str, int]


def of_arrays(tree: Any) -> Sums:
  """The checksum of each array on the devices, by path; every process must call this."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  sums = {jax.tree_util.keystr(path, simple=True, separator='/'): _of_array(leaf)
          for path, leaf in leaves}
  return {name: int(value) for name, value in jax.device_get(sums).items()}


def _of_array(array: jax.Array) -> int | jax.Array:
  if array.sharding.memory_kind == memory.HOST:
    # Copied here: a program that reads arrays of several devices from there aborts on CPUs.
    array = jax.device_put(array, array.sharding.with_memory_kind('device'))
  return of_numpy(np.asarray(array)) if _is_here(array) else on_devices(array)


def on_devices(array: jax.Array) -> jax.Array:
  """The same as u32[] that every device has; one small program for each shape and sharding."""
  sharding = array.sharding
  named = isinstance(sharding, jax.sharding.NamedSharding)
  return _program(partition.replicated(sharding.mesh) if named else None)(array)


def of_numpy(array: np.ndarray) -> int:
  """The same of an array on the host, some elements at a time."""
  flat, total = np.ascontiguousarray(array).reshape(-1), 0
  bits = flat.view(np.dtype(f'u{min(flat.dtype.itemsize, 4)}'))
  for start in range(0, len(bits), _CHUNK):
    part = bits[start:start + _CHUNK].astype(np.uint32)
    index = np.arange(start, start + len(part), dtype=np.uint64).astype(np.uint32)
    total += int(np.sum(part * _weights(index), dtype=np.uint32))
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


def _is_here(array: jax.Array) -> bool:
  """Whether the values are in this process's memory, where summing them needs no program."""
  return array.is_fully_addressable and all(
      device.platform == 'cpu' for device in array.devices())


@functools.cache
def _program(whole: jax.sharding.Sharding | None):
  return jax.jit(_sum, out_shardings=whole)


def _sum(array: jax.Array) -> jax.Array:
  """u32[] of an array of any shape."""
  if array.dtype == jnp.bool_:
    bits = array.astype(jnp.uint32)
  else:
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f'u{array.dtype.itemsize}'))
  index, stride = jnp.zeros(array.shape, jnp.uint32), 1
  for axis in reversed(range(array.ndim)):
    numbers = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    index, stride = index + numbers * np.uint32(stride % 2**32), stride * array.shape[axis]
  return jnp.sum(bits.astype(jnp.uint32) * _weights(index), dtype=jnp.uint32)


def _weights(index):
  """Odd numbers u32 that look random, for positions u32."""
  mixed = index * np.uint32(0x9E3779B1)
  return (mixed ^ (mixed >> np.uint32(15))) | np.uint32(1)
