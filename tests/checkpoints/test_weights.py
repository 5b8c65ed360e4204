"""Weights folders: whole, partial and wrong ones."""

import resource

import jax.numpy as jnp
import numpy as np
import pytest

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
