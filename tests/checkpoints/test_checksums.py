"""Checksums: the same on the host and on any devices, and other ones for other values."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxgen.checkpoints import checksums
from jaxgen.core.errors import UserError

DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn, np.int8, np.int32,
          np.uint32, bool]


def random(shape, dtype):
  return np.asarray(np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_devices_and_host_agree(dtype, monkeypatch):
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(4, 2), ('a', 'b'))
  for shape, spec in (((), ()), ((8, 3, 4), ('a', None, 'b')), ((8, 3, 4), (('b', 'a'),))):
    array = random(shape, dtype)
    placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    shards = [shard for shard in placed.addressable_shards if shard.replica_id == 0]
    starts = [np.array([part.start or 0 for part in shard.index], np.uint32) for shard in shards]
    whole = checksums.of_numpy(array)
    assert sum(int(checksums._sum(shard.data, start, shape))
               for shard, start in zip(shards, starts)) % 2**32 == whole
    for chunk in (1, 3, 5, 12, 1000):
      monkeypatch.setattr(checksums, '_CHUNK', chunk)
      assert checksums.of_arrays({'x': placed}) == {'x': whole}


def test_chunks_and_words_of_64_bits(monkeypatch):
  array = random((7, 5), np.float32)
  whole = checksums.of_numpy(array)
  monkeypatch.setattr(checksums, '_CHUNK', 4)
  assert checksums.of_numpy(array) == whole == checksums.of_numpy(np.asfortranarray(array))
  assert checksums.of_numpy(array.astype(np.float64)) == checksums.of_numpy(
      array.astype(np.float64).view(np.uint32))


def test_every_bit_and_every_place_counts():
  array = np.arange(64, dtype=np.uint16)
  sums = {checksums.of_numpy(array)}
  for place in range(64):
    for bit in range(16):
      changed = array.copy()
      changed[place] ^= 1 << bit
      sums.add(checksums.of_numpy(changed))
  assert len(sums) == 1 + 64 * 16
  swapped = array.copy()
  swapped[[3, 9]] = swapped[[9, 3]]
  assert checksums.of_numpy(swapped) != checksums.of_numpy(array) != checksums.of_numpy(array[::-1])


def test_names_of_what_has_changed():
  found = checksums.of_arrays({'a': [jnp.ones(2), jnp.zeros(3)], 'b': jnp.ones(1)})
  assert found.keys() == {'a/0', 'a/1', 'b'}
  checksums.check(found, found, 'here', 'delete it')
  checksums.check(found, {'a/0': found['a/0']}, 'here', 'delete it')  # others had none
  with pytest.raises(UserError, match='here: damaged .1 of 3 arrays .* saved: a/1.; delete it'):
    checksums.check(found, found | {'a/1': 5}, 'here', 'delete it')
