"""Heads split over devices with ZeRO-2, as at full size, equal one device (L065)."""

import copy

import jax
import numpy as np
import pytest

from configs.query_kontext import base
from configs.query_kontext import shapes
from jaxgen.core import trees
from jaxgen.systems.registry import make_system
from tests.training.stepped import after_one_step


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  """Stage 1, whose gradients pass the language model: 28 query heads on 4 key heads (L051)."""
  made = shapes.get_config('stage1')
  made.model.mllm.vision.update(width=32, layers=2, heads=4, mlp=32)
  made.model.mllm.text.update(width=32, heads=28, kv_heads=4, head_channels=6, mlp=64,
                              rope_sections=(1, 1, 1))
  made.model.bridge.width = made.model.connector.width = 32
  made.model.connector.update(hidden=16, out_width=32)
  made.model.denoiser.update(cond_dim=32, width=32, heads=4, layers=2, axes_dims=(2, 2, 4))
  made.data.update(tokenizer=tiny_tokenizer, prompt_tokens=160)
  made.optimizer.update(name='adamw', warmup_steps=0)
  made.train.update(rows=4, accumulate=2)
  return made


def test_the_full_size_stages_split_heads_and_gather_once():
  config = base.get_config()
  assert config.mesh.tensor == 2 and config.train.zero == 2


@pytest.mark.slow
def test_split_heads_with_zero_2_equal_one_device(config):
  split = copy.deepcopy(config)
  split.mesh.update(data=1, fsdp=2, tensor=4)
  split.train.zero = 2
  rng = np.random.default_rng(0)
  # No zeros of the initialisation: gradients reach every group.
  params = trees.map_named(lambda path, leaf: (
      0.1 * rng.standard_normal(leaf.shape) + path.endswith(('/scale', '/alpha'))
  ).astype(np.float32), make_system(config).shapes())
  whole, whole_loss, _ = after_one_step(config, 1, params)
  state, loss, _ = after_one_step(split, 8, params)
  np.testing.assert_allclose(loss, whole_loss, rtol=1e-5)
  # The first moment after one step is the clipped gradient times 1 - b1.
  ours, theirs = (trees.flatten(jax.device_get(each.opt_state[1][0].mu)) for each in (state, whole))
  moved = {path.split('/')[0] for path, leaf in theirs.items() if np.abs(leaf).max()}
  assert moved == {'mllm', 'bridge', 'connector', 'denoiser'}
  for path, leaf in theirs.items():
    np.testing.assert_allclose(ours[path], leaf, atol=2e-5 * np.abs(leaf).max(), err_msg=path)
  adapters = {path: leaf.sharding.spec for path, leaf in trees.flatten(state.params).items()
              if path.startswith('mllm/text/') and path.endswith('/lora/b')}
  assert adapters
  for name in 'qkv':  # seven query heads and one key head on each device
    spec, = (spec for path, spec in adapters.items() if f'attention/{name}/' in path)
    assert 'tensor' in jax.tree.leaves(tuple(spec)), name
