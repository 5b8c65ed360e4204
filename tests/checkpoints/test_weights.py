"""Weights folders: whole, partial and wrong ones."""

import contextlib
import json
import pathlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.checkpoints import checksums
from jaxgen.core.errors import UserError
from jaxgen.checkpoints.weights import load_weights
from jaxgen.checkpoints.weights import open_weights
from jaxgen.checkpoints.weights import save_weights

PARAMS = {
    'mllm': {'a': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}},
    'bridge': {'half': np.asarray(jnp.arange(3, dtype=jnp.bfloat16))},
    'autoencoder': {},
}


@pytest.fixture
def folder(tmp_path):
  save_weights(str(tmp_path / 'w'), PARAMS, '{"model": 1}')
  return str(tmp_path / 'w')


def test_groups_come_back_as_numpy(folder):
  params, config = load_weights(folder, ['mllm', 'bridge', 'autoencoder'])
  assert config == '{"model": 1}'
  assert params['autoencoder'] == {}
  for found, saved in ((params['mllm']['a']['kernel'], PARAMS['mllm']['a']['kernel']),
                       (params['bridge']['half'], PARAMS['bridge']['half'])):
    assert isinstance(found, np.ndarray) and found.dtype == saved.dtype
    assert found.tobytes() == saved.tobytes()
  only, _ = load_weights(folder, ['bridge'])
  assert only.keys() == {'bridge'}


def test_parameters_lie_in_chunks_of_a_megabyte(tmp_path):
  """Processes read whole chunks, so their size is what a narrow shard costs more."""
  save_weights(str(tmp_path / 'w'), {'mllm': {'a': np.zeros((4, 3072, 256), np.float16)}}, '{}')
  stored = open_weights(str(tmp_path / 'w'), ['mllm'])['mllm']['a']
  chunk = stored.entry.storage.chunk_shape
  assert 1 << 19 <= np.prod(chunk) * 2 <= 1 << 20 and chunk[0] == 4, chunk


def test_weights_of_another_model_are_listed(folder):
  shapes = {'mllm': {'a': {'kernel': np.zeros((2, 4))}, 'b': np.zeros(2)}}
  with pytest.raises(UserError) as caught:
    load_weights(folder, ['mllm'], shapes=shapes)
  assert '1 missing: mllm/b; 1 misshapen: mllm/a/kernel (2, 3) (needs (2, 4))' in str(caught.value)


def test_wrong_places_are_named(folder, tmp_path):
  with pytest.raises(UserError, match='no config.json there'):
    load_weights(str(tmp_path), ['mllm'])
  with pytest.raises(UserError, match='not empty'):
    save_weights(folder, PARAMS, '{}')
  with pytest.raises(UserError, match="weights = 'best'"):
    load_weights(folder, ['mllm'], 'best')


def test_a_changed_array_is_named(folder):
  """Its files are valid in themselves, as after a flipped bit in values that are not compressed."""
  params, _ = load_weights(folder, ['mllm', 'bridge'])
  sums = json.loads((pathlib.Path(folder) / 'weights' / checksums.FILE).read_text())
  assert sums['bridge/half'] == checksums.of_numpy(params['bridge']['half'])
  sums['bridge/half'] ^= 1
  (pathlib.Path(folder) / 'weights' / checksums.FILE).write_text(json.dumps(sums))
  load_weights(folder, ['mllm'])
  opened = open_weights(folder, ['mllm', 'bridge'])
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  assert opened['mllm']['a']['kernel'].onto(sharding, np.float16).dtype == np.float16
  for read in (lambda: load_weights(folder, ['bridge']),
               lambda: np.asarray(opened['bridge']['half']),
               lambda: opened['bridge']['half'].onto(sharding, np.float32)):
    with pytest.raises(UserError, match='weights: damaged .1 of . arrays .* saved: bridge/half.; '
                                        'copy the folder again'):
      read()
  (pathlib.Path(folder) / 'weights' / checksums.FILE).unlink()  # as of an older version
  load_weights(folder, ['bridge'])


def test_damaged_files_are_named(folder):
  for file in sorted((pathlib.Path(folder) / 'weights').rglob('*')):
    if file.is_file() and file.parent.name == 'd':
      whole = file.read_bytes()
      for data in (whole[:len(whole) // 2], b'', bytes(len(whole))):
        file.write_bytes(data)
        with contextlib.suppress(UserError):  # a file of which nothing is read may be as it likes
          params, _ = load_weights(folder, ['mllm', 'bridge'])
          assert params['mllm']['a']['kernel'].tobytes() == (
              PARAMS['mllm']['a']['kernel'].tobytes())
      file.write_bytes(whole)
  (pathlib.Path(folder) / 'config.json').write_text('{"model"')
  with pytest.raises(UserError, match='config.json: damaged .*; copy it back'):
    load_weights(folder, ['mllm'])


def test_a_full_disk_leaves_nothing_behind(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  big = {'mllm': {'w': np.random.default_rng(0).normal(size=100_000)}}
  resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
  try:
    with pytest.raises(UserError, match='could not be written') as caught:
      save_weights(str(tmp_path / 'w'), big, '{}')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(caught.value)
  assert not list(tmp_path.iterdir())
