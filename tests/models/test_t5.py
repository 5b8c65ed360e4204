"""T5's encoder against transformers' class, padding read and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxgen.conversion import load_pretrained
from jaxgen.core.errors import UserError
from jaxgen.models.encoders.t5 import distance_buckets
from jaxgen.models.registry import section
from tests.models import parity

SIZES = dict(vocab_size=61, d_model=24, d_kv=10, d_ff=40, num_layers=3, num_heads=2,
             relative_attention_num_buckets=8, relative_attention_max_distance=20)


@pytest.fixture(scope='module')
def encoders(tmp_path_factory):
  """``(theirs, our module, our params)``; of a whole T5 the encoder alone is read."""
  torch.manual_seed(0)
  whole = transformers.T5ForConditionalGeneration(
      transformers.T5Config(**SIZES, feed_forward_proj='gated-gelu'))
  with torch.no_grad():
    for parameter in whole.parameters():
      parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
  folder = str(tmp_path_factory.mktemp('t5') / 'model')
  whole.save_pretrained(folder)
  return (transformers.T5EncoderModel.from_pretrained(folder).eval(), *load_pretrained(folder))


@pytest.mark.parametrize('read', [True, False])
def test_states_equal_transformers(encoders, read):
  model, module, params = encoders
  tokens = np.random.default_rng(0).integers(2, 61, (2, 50)).astype(np.int32)
  tokens[1, 30:] = 0
  present = np.ones(tokens.shape, bool) if read else tokens > 0

  def states(model, tokens, present):
    found = model(tokens, attention_mask=None if read else present).last_hidden_state
    return [found[0], found[1, :30]]

  ours = jax.jit(module.apply)({'params': params}, tokens, present)
  parity.assert_near([ours[0], ours[1, :30]], parity.theirs(model, states, tokens, present * 1))


@pytest.mark.parametrize('buckets, most', [(32, 128), (8, 20), (16, 17)])
def test_buckets_of_distances(buckets, most):
  attention = transformers.models.t5.modeling_t5.T5Attention
  places = torch.arange(300)
  theirs = attention._relative_position_bucket(places[None] - places[:, None], True, buckets, most)
  np.testing.assert_array_equal(distance_buckets(300, buckets, most), theirs)


def test_bfloat16_stays_near(encoders):
  _, module, params = encoders
  tokens = np.arange(2, 40, dtype=np.int32)[None]
  present = np.ones(tokens.shape, bool)
  exact, half = (jnp.asarray(jax.jit(type(module)(module.config, dtype).apply)(
      {'params': params}, tokens, present), jnp.float32) for dtype in (jnp.float32, jnp.bfloat16))
  assert 0 < jnp.abs(exact - half).mean() < 0.05 * jnp.abs(exact).mean()


def test_sizes_that_do_not_fit():
  sizes = dict(vocab=61, width=24, layers=1, heads=2, head_channels=10, mlp=40)
  with pytest.raises(UserError, match='text_encoder.buckets = 6: must be a multiple of 4'):
    section('t5', **sizes, buckets=6)
  with pytest.raises(UserError, match='max_distance = 8: must be above a quarter'):
    section('t5', **sizes, max_distance=8)
