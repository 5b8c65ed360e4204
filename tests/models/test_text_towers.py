"""Text towers against transformers' classes: Llama, Qwen3 and CLIP."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.tables import clip_text
from jaxgen.conversion.tables import llama
from jaxgen.conversion.tables import qwen3
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.encoders.clip_text import CLIP_L
from tests.models import parity

VOCAB = 61
SIZES = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=32, num_attention_heads=4,
             bos_token_id=1, eos_token_id=2)
LLAMA_3_1 = dict(rope_type='llama3', rope_theta=5e5, factor=8.0, low_freq_factor=1.0,
                 high_freq_factor=4.0, original_max_position_embeddings=64)
LM = dict(SIZES, num_hidden_layers=5, num_key_value_heads=2)
# Name of the case -> (family, their class, their config).
TOWERS = {
    'llama 3': (llama, transformers.LlamaModel, transformers.LlamaConfig(
        **LM, rope_parameters=dict(rope_type='default', rope_theta=5e5))),
    'llama 3.1': (llama, transformers.LlamaModel, transformers.LlamaConfig(
        **LM, rope_parameters=LLAMA_3_1, head_dim=16)),
    'qwen3': (qwen3, transformers.Qwen3Model, transformers.Qwen3Config(
        **LM, head_dim=16, rope_parameters=dict(rope_type='default', rope_theta=1e6))),
}
LLAMA = dict(vocab=VOCAB, width=48, layers=1, heads=4, kv_heads=2, mlp=32, qkv_bias=False)
SKIP = {'llama 3': 2, 'llama 3.1': 2, 'qwen3': 1}


def randomised(model):
  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
      parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
  return model.eval()


def imported(table, folder):
  """``(module, params, their tensors)`` of a folder."""
  config, tensors = load_folder(folder)
  module = registry.build(registry.section(
      **table.FAMILY.read_config(config, tensors, folder)), jnp.float32)
  params = from_torch(table.FAMILY.rules, tensors, registry.param_shapes(module), where=folder)
  return module, params, tensors


@pytest.fixture(scope='module', params=list(TOWERS))
def tower(request, tmp_path_factory):
  """``(name, their model, our module, our params, their tensors)``."""
  table, kind, config = TOWERS[request.param]
  theirs = randomised(kind(config))
  folder = str(tmp_path_factory.mktemp('tower') / 'model')
  theirs.save_pretrained(folder)
  return request.param, theirs, *imported(table, folder)


@functools.partial(jax.jit, static_argnames=('module', 'all_layers', 'skip'))
def states_of(module, params, tokens, segments, all_layers=False, skip=0):
  def call(method, *args):
    return module.apply({'params': params}, *args, method=method)

  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return call('decode', call('embed', tokens), positions, segments, all_layers, skip)


def padded_batch():
  """``(tokens, segments)`` of two texts, one of them padded on the right."""
  tokens = np.random.default_rng(0).integers(3, VOCAB, (2, 90)).astype(np.int32)
  segments = np.ones_like(tokens)
  segments[1, 50:] = 0
  return tokens, segments


def test_states_of_a_right_padded_batch_equal_transformers(tower):
  name, theirs, module, params, _ = tower
  tokens, segments = padded_batch()
  valid = segments == 1

  def their_states(model, tokens, segments):
    states = model(input_ids=tokens, attention_mask=segments, output_hidden_states=True)
    return [layer[segments == 1] for layer in states.hidden_states]

  expected = parity.theirs(theirs, their_states, tokens, segments)
  every = np.asarray(states_of(module, params, tokens, segments, all_layers=True))
  assert len(every) == 6
  parity.assert_near([layer[valid] for layer in every], expected)
  early = np.asarray(states_of(module, params, tokens, segments, skip=SKIP[name]))
  np.testing.assert_allclose(early[valid], every[-1 - SKIP[name]][valid], rtol=1e-5, atol=1e-5)
  assert np.abs(early - every[-1])[valid].max() > 0.1
  assert np.isfinite(early).all()


def test_round_trip_is_byte_equal(tower):
  name, theirs, module, params, tensors = tower
  family = TOWERS[name][0].FAMILY
  back = to_torch(family.rules, params)
  assert back.keys() == tensors.keys()
  for key, tensor in tensors.items():
    assert back[key].tobytes() == np.asarray(tensor).tobytes(), key
  section = registry.section(family.name, **dataclasses.asdict(module.config))
  written = family.write_config(section)
  assert registry.section(**family.read_config(written, back, 'x')) == section
  assert type(theirs.config).from_dict(written).head_dim == module.config.head_dim


@pytest.fixture(scope='module', params=[2, 7])
def clip(request, tmp_path_factory):
  """``(end token id of the config, their model, our module, our params, their tensors)``."""
  config = transformers.CLIPTextConfig(
      **SIZES | dict(eos_token_id=request.param), num_hidden_layers=3,
      max_position_embeddings=12, hidden_act='gelu' if request.param == 7 else 'quick_gelu')
  theirs = randomised(transformers.CLIPTextModel(config))
  folder = str(tmp_path_factory.mktemp('clip') / 'model')
  theirs.save_pretrained(folder)
  return request.param, theirs, *imported(clip_text, folder)


def test_clip_states_and_pooled_vector_equal_transformers(clip):
  eos, theirs, module, params, _ = clip
  tokens = np.random.default_rng(1).integers(8, VOCAB - 1, (3, 10)).astype(np.int32)
  ends = (4, 9, 1)
  for row, end in enumerate(ends):
    # Padding repeats the end token; the first one counts.
    tokens[row, end:] = VOCAB - 1 if eos == 2 else eos

  def their_states(model, tokens):
    found = model(tokens)
    return found.last_hidden_state, found.pooler_output

  states, pooled = jax.jit(module.apply)({'params': params}, tokens)
  parity.assert_near((states, pooled), parity.theirs(theirs, their_states, tokens))
  np.testing.assert_array_equal(pooled, states[np.arange(3), np.array(ends)])


def test_clip_round_trip_is_byte_equal(clip):
  eos, _, module, params, tensors = clip
  back = to_torch(clip_text.FAMILY.rules, params)
  assert back.keys() == tensors.keys() and module.config.eos_id == eos
  for key, tensor in tensors.items():
    assert back[key].tobytes() == np.asarray(tensor).tobytes(), key


@pytest.mark.parametrize('family, sizes', [
    ('llama', LLAMA | dict(tie_embeddings=True)), ('qwen3', LLAMA | dict(qk_norm=True)),
    ('clip_text', dict(vocab=61, width=48, layers=1, heads=4, mlp=32))])
def test_every_parameter_has_logical_axes(family, sizes):
  module = registry.build(registry.section(family, **sizes), jnp.float32)
  boxed = jax.eval_shape(lambda rng: registry.init(module, rng), jax.random.key(0))['params']
  for path, leaf in trees.flatten(boxed).items():
    assert len(leaf.names) == len(leaf.value.shape) and all(leaf.names), path


def test_what_their_class_cannot_hold_is_named():
  section = registry.section('llama', **LLAMA | dict(qkv_bias=True))
  with pytest.raises(UserError, match='qkv_bias = True: llama knows False only'):
    llama.FAMILY.write_config(section)
  with pytest.raises(UserError, match="rope_type = 'yarn'"):
    llama.FAMILY.read_config(dict(LM, model_type='llama', rope_parameters=dict(
        rope_type='yarn', factor=4.0)), (), 'x')
  with pytest.raises(UserError, match='text_encoder_2.heads = 5: must divide'):
    registry.section(**CLIP_L | dict(heads=5))
