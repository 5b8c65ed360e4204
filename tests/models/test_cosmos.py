"""The Cosmos denoiser against diffusers' CosmosTransformer3DModel, and what packing adds to it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import CosmosTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_cosmos_transformer_checkpoint_to_diffusers as rename_to_diffusers)

from jaxgen.conversion import engine
from jaxgen.conversion.tables import cosmos
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.denoisers.cosmos import Cosmos
from jaxgen.models.denoisers.cosmos import CosmosConfig
from tests.models import parity
from tests.models.rows import denoiser_inputs

TINY = dict(in_channels=8, cond_dim=20, text_dim=12, width=32, heads=2, layers=2,
            modulation_rank=6)
FRAMES, ROWS, COLUMNS, TEXT = 3, 2, 3, 5
LENGTH = FRAMES * ROWS * COLUMNS


def example(config, rows=1, seed=0):
  """Inputs with one segment per row: a grid of image tokens, frame by frame."""
  rng = np.random.default_rng(seed)
  positions = np.stack(np.indices((FRAMES, ROWS, COLUMNS)), axis=-1).reshape(-1, 3)
  return dict(
      latents=rng.normal(size=(rows, LENGTH, config.in_channels)).astype(np.float32),
      t=rng.uniform(size=(rows, 1)).astype(np.float32),
      positions=np.tile(positions, (rows, 1, 1)).astype(np.int32),
      segments=np.ones((rows, LENGTH), np.int32),
      states=rng.normal(size=(rows, TEXT, config.cond_dim)).astype(np.float32),
      state_positions=np.zeros((rows, TEXT, 3), np.int32),
      state_segments=np.ones((rows, TEXT), np.int32),
  )


def clean_frames(rows, frames):
  """bool[B, L], True in the first frames of every row."""
  return np.tile(np.arange(LENGTH) < frames * ROWS * COLUMNS, (rows, 1))


def torch_model(config, params):
  """diffusers' class with our weights.

  Its padding mask needs torchvision; here it is one more channel of the input instead.
  """
  theirs = cosmos.FAMILY.write_config(config.__dict__)
  theirs |= dict(in_channels=theirs['in_channels'] + int(config.padding_mask),
                 concat_padding_mask=False)
  return parity.load(CosmosTransformer3DModel.from_config(theirs), cosmos.RULES, params)


def torch_velocity(model, latents, states, times, config, clean=None):
  """Velocity of tokens f[B, L, C]; times are [B] or one for each frame, [B, T]."""
  rows = len(latents)
  grid = (rows, FRAMES, ROWS, COLUMNS)
  video = latents.reshape(*grid, -1, 2, 2).permute(0, 4, 1, 2, 5, 3, 6)
  video = video.reshape(rows, -1, FRAMES, 2 * ROWS, 2 * COLUMNS)
  masks = []
  if config.condition_mask:
    mask = torch.zeros(grid) if clean is None else torch.tensor(clean).reshape(grid).float()
    masks.append(mask.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[:, None])
  if config.padding_mask:
    masks.append(torch.zeros_like(video[:, :1]))
  out = model(
      hidden_states=video, timestep=times if times.ndim == 1 else times[:, None, :, None, None],
      encoder_hidden_states=states,
      condition_mask=torch.cat(masks, dim=1) if masks else None, return_dict=False)[0]
  out = out.reshape(rows, -1, FRAMES, ROWS, 2, COLUMNS, 2).permute(0, 2, 3, 5, 1, 4, 6)
  return out.reshape(rows, LENGTH, -1)


@functools.cache
def jitted(config, dtype=jnp.float32):
  module = Cosmos(config, dtype)
  return jax.jit(lambda params, batch: module.apply(params, *denoiser_inputs(**batch)))


CASES = {  # fields, and how many frames are clean
    'clean frames of their own time': (dict(padding_mask=False, clean_time=0.1), 2),
    'clean frames of the same time': (dict(), 1),
    'no clean frame': (dict(remat='dots', rope_scale=(2.0, 1.0, 4.0), mlp_ratio=3.0), 0),
    'no projection, no masks': (
        dict(cond_projection=False, text_dim=20, condition_mask=False, clean_time=1e-4), 1),
}


@pytest.mark.parametrize('fields, frames', CASES.values(), ids=CASES)
def test_equals_diffusers_outputs_and_gradients(fields, frames):
  config = CosmosConfig(**(TINY | fields))
  params, batch = parity.random_params(Cosmos(config)), example(config, rows=2)
  batch['clean'] = clean_frames(2, frames)
  times = torch.tensor(batch['t'][:, 0])
  if config.clean_time >= 0:
    times = times[:, None].repeat(1, FRAMES)
    times[:, :frames] = config.clean_time

  parity.assert_same_with_gradients(
      jitted(config), params, batch, torch_model(config, params),
      functools.partial(torch_velocity, config=config, times=times, clean=batch['clean']),
      cosmos.RULES, ('latents', 'states'))


def test_the_epsilon_of_queries_and_keys_is_a_field():
  """NVIDIA's code has another than diffusers, whose class knows one only."""
  config = CosmosConfig(**TINY)
  other = dataclasses.replace(config, qk_epsilon=0.5)
  params, batch = parity.random_params(Cosmos(config)), example(config)
  model = torch_model(config, params)
  for name, part in model.named_modules():
    if name.endswith(('norm_q', 'norm_k')):
      part.eps = 0.5
  theirs = parity.theirs(model, functools.partial(torch_velocity, config=config),
                         batch['latents'], batch['states'], batch['t'][:, 0])
  parity.assert_near(jitted(other)({'params': params}, batch), theirs)
  assert np.abs(jitted(config)({'params': params}, batch) - theirs.exact).max() > 1e-3
  with pytest.raises(UserError, match='qk_epsilon = 0.5: CosmosTransformer3DModel knows 1e-05'):
    cosmos.FAMILY.write_config(dataclasses.asdict(other))


def test_packed_row_equals_separate_rows():
  config = CosmosConfig(**TINY, clean_time=0.1)
  params = {'params': parity.random_params(Cosmos(config))}
  whole = dict(example(config), clean=clean_frames(1, 1))
  whole['clean'][0, 12:14] = True
  t = np.array([[0.2, 0.9]], np.float32)
  latent_spans, state_spans = ((0, 10), (10, 17)), ((0, 2), (2, 5))  # the last latent is padding
  packed = dict(whole, t=t)
  packed['segments'] = np.array([[1] * 10 + [2] * 7 + [0]], np.int32)
  packed['state_segments'] = np.array([[1] * 2 + [2] * 3], np.int32)
  together = jitted(config)(params, packed)
  assert bool(jnp.isfinite(together).all())

  for group, ((a, b), (c, d)) in enumerate(zip(latent_spans, state_spans)):
    alone = {name: array[:, c:d] if name.startswith('state') else array[:, a:b]
             for name, array in whole.items() if name != 't'}
    separate = jitted(config)(params, alone | dict(t=t[:, group:group + 1]))
    np.testing.assert_allclose(together[:, a:b], separate, atol=1e-5)


def test_configs_come_back():
  config = CosmosConfig(**TINY)
  theirs = cosmos.FAMILY.write_config(config.__dict__)
  section = cosmos.FAMILY.read_config(theirs, (), 'config.json')
  assert section.pop('family') == 'cosmos' and CosmosConfig(**section) == config
  with pytest.raises(UserError, match='extra_pos_embed_type'):
    cosmos.FAMILY.read_config(theirs | dict(extra_pos_embed_type='learnable'), (), 'config.json')


def test_original_names_are_those_that_diffusers_translates():
  module = Cosmos(CosmosConfig(**TINY))
  params = parity.random_params(module)
  original = engine.to_torch(cosmos.ORIGINAL_RULES, params)
  assert all(name.startswith('net.') for name in original)
  extras = {'net.pos_embedder.seq': np.arange(3), 'net.accum_iteration': np.zeros(1),
            'net.blocks.0.self_attn.q_norm._extra_state': np.zeros(0)}
  translated = rename_to_diffusers(dict(original) | extras)
  expected = engine.to_torch(cosmos.RULES, params)
  assert translated.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(translated[name], array, err_msg=name)
  layout = cosmos.FAMILY.layout('original')
  again = engine.from_torch(layout.rules, layout.parameters(original | extras),
                            registry.param_shapes(module))
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_every_parameter_names_its_axes():
  parity.assert_axes_named(Cosmos(CosmosConfig(**TINY)))


def test_fresh_model_predicts_zero():
  config = CosmosConfig(**TINY)
  variables = jax.jit(lambda key: registry.init(Cosmos(config), key))(jax.random.key(0))
  assert float(jnp.abs(jitted(config)(variables, example(config))).max()) == 0


@pytest.mark.parametrize('wrong, field', [
    (dict(heads=3), 'heads'), (dict(heads=4), 'heads'), (dict(in_channels=6), 'in_channels'),
    (dict(rope_scale=(1.0, 2.0)), 'rope_scale'), (dict(cond_projection=False), 'text_dim'),
    (dict(remat='x'), 'remat'),
])
def test_sizes_that_do_not_fit_are_named(wrong, field):
  with pytest.raises(UserError, match=f'denoiser.{field}'):
    CosmosConfig(**(TINY | wrong))
