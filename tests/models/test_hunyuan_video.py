"""HunyuanVideo against diffusers' HunyuanVideoTransformer3DModel, and what goes beyond it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_hunyuan_video_transformer_to_diffusers as rename_to_diffusers)
from diffusers.models.embeddings import get_1d_rotary_pos_embed

from jaxgen.conversion import engine
from jaxgen.conversion.tables import hunyuan_video as table
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.denoisers.hunyuan_video import HunyuanVideo
from jaxgen.models.denoisers.hunyuan_video import HunyuanVideoConfig
from jaxgen.models.denoisers.hunyuan_video import segment_means
from tests.models import parity
from tests.models.rows import denoiser_inputs

TINY = dict(in_channels=8, out_channels=8, cond_dim=20, pooled_dim=6, width=32, heads=2,
            double_blocks=2, single_blocks=2, refiner_blocks=2, axes_dims=(4, 6, 6))
FRAMES, ROWS, COLUMNS, TEXT = 5, 2, 3, 5
FRAME = ROWS * COLUMNS
LENGTH = FRAMES * FRAME


def example(config, rows=2, groups=1, seed=0):
  """Inputs with one segment per row: a grid of image tokens; prompts of 5, 3, 5, ... tokens."""
  rng = np.random.default_rng(seed)
  positions = np.stack(np.indices((FRAMES, ROWS, COLUMNS)), axis=-1).reshape(-1, 3)
  lengths = np.array([TEXT, 3])[np.arange(rows) % 2]

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  batch = dict(
      latents=normal(rows, LENGTH, config.in_channels),
      t=rng.uniform(size=(rows, groups)).astype(np.float32),
      positions=np.tile(positions, (rows, 1, 1)).astype(np.int32),
      segments=np.ones((rows, LENGTH), np.int32),
      states=normal(rows, TEXT, config.cond_dim),
      state_positions=np.zeros((rows, TEXT, 3), np.int32),
      state_segments=(np.arange(TEXT) < lengths[:, None]).astype(np.int32),
      pooled=normal(rows, groups, config.pooled_dim),
      clean=np.tile(np.arange(LENGTH) < FRAME, (rows, 1)),
  )
  if config.guidance_embed:
    batch['guidance'] = rng.uniform(1, 7, size=(rows, groups)).astype(np.float32)
  return batch


def torch_model(config, params):
  theirs = table.FAMILY.write_config(config.__dict__)
  model = HunyuanVideoTransformer3DModel.from_config(theirs)
  return parity.load(model, table.RULES, params)


def torch_velocity(model, latents, states, pooled, batch):
  """Velocity of tokens f[B, L, C], each of them 2 x 2 latent pixels."""
  video = latents.reshape(len(latents), FRAMES, ROWS, COLUMNS, -1, 2, 2)
  video = video.permute(0, 4, 1, 2, 5, 3, 6).reshape(len(latents), -1, FRAMES, 2 * ROWS,
                                                     2 * COLUMNS)
  guidance = batch.get('guidance')
  out = model(
      hidden_states=video, timestep=torch.tensor(1000 * batch['t'][:, 0]),
      encoder_hidden_states=states, encoder_attention_mask=torch.tensor(batch['state_segments']),
      pooled_projections=pooled[:, 0],
      guidance=None if guidance is None else torch.tensor(1000 * guidance[:, 0]),
      return_dict=False)[0]
  out = out.reshape(len(latents), -1, FRAMES, ROWS, 2, COLUMNS, 2).permute(0, 2, 3, 5, 1, 4, 6)
  return out.reshape(len(latents), LENGTH, -1)


class PlacedRope(torch.nn.Module):
  """diffusers' rotation, but of given positions (L, 3) instead of a grid from zero."""

  def __init__(self, positions, config):
    super().__init__()
    self.positions, self.config = positions, config

  def forward(self, hidden_states):
    parts = [get_1d_rotary_pos_embed(dim, torch.tensor(self.positions[:, axis]).float(),
                                     self.config.theta, use_real=True)
             for axis, dim in enumerate(self.config.axes_dims)]
    return tuple(torch.cat(part, dim=1) for part in zip(*parts))


@functools.cache
def jitted(config, dtype=jnp.float32):
  module = HunyuanVideo(config, dtype)
  return jax.jit(lambda params, batch: module.apply(params, *denoiser_inputs(**batch)))


def assert_equals_diffusers(config, batch, model, params):
  parity.assert_same_with_gradients(
      jitted(config), params, batch, model, functools.partial(torch_velocity, batch=batch),
      table.RULES, ('latents', 'states', 'pooled'))


MODES = {
    'same time': dict(),
    'token_replace': dict(clean_time='zero'),
    'latent_concat': dict(in_channels=20, guidance_embed=False, remat='dots'),
}


@pytest.mark.parametrize('fields', MODES.values(), ids=MODES)
def test_equals_diffusers_outputs_and_gradients(fields):
  config = HunyuanVideoConfig(**(TINY | fields))
  params = parity.random_params(HunyuanVideo(config))
  assert_equals_diffusers(config, example(config), torch_model(config, params), params)


INPUT_TIMES, OUTPUT_TIMES = (0, 2), (24, 26, 28)  # of 2 references and 3 targets
PLACES = {
    'marginal': (np.array(INPUT_TIMES + OUTPUT_TIMES), 0),
    'even': (np.linspace(0, 31, FRAMES).round(), 0),
    'one time, shifted by negative rows and columns': (np.zeros(FRAMES), -7),
}


@pytest.mark.parametrize('times, shift', PLACES.values(), ids=PLACES)
def test_references_and_targets_at_any_positions(times, shift):
  config = HunyuanVideoConfig(**TINY)
  params, batch = parity.random_params(HunyuanVideo(config)), example(config)
  positions = batch['positions'].reshape(2, FRAMES, FRAME, 3)
  positions[..., 0] = times[:, None]
  positions[..., 1:] += shift * np.arange(FRAMES)[:, None, None]
  batch['positions'] = positions.reshape(2, LENGTH, 3)
  model = torch_model(config, params)
  model.rope = PlacedRope(batch['positions'][0], config)
  assert_equals_diffusers(config, batch, model, params)


def test_images_of_mixed_sizes_do_not_see_padding():
  config = HunyuanVideoConfig(**TINY, clean_time='zero')
  params = {'params': parity.random_params(HunyuanVideo(config))}
  batch = example(config, rows=1, groups=2)  # the second segment is empty
  grids = [(0, 2, 3), (2, 3, 2), (24, 4, 2), (26, 1, 4)]  # (time, height, width)
  places = [np.stack(np.indices((1, h, w)), axis=-1).reshape(-1, 3) + (time, 0, 0)
            for time, h, w in grids]
  used = sum(map(len, places))
  batch['positions'][0, :used] = np.concatenate(places)
  batch['segments'][0, used:] = 0
  batch['clean'][0] = np.arange(LENGTH) < 12
  before = jitted(config)(params, batch)
  for name, value in (('latents', 9.0), ('positions', 5), ('clean', True)):
    batch[name][0, used:] = value
  batch['states'][0, 4:], batch['state_segments'][0, 4:] = 3.0, 0
  short = jitted(config)(params, batch)
  batch['states'][0, 4:] = -8.0
  np.testing.assert_array_equal(short[:, :used], jitted(config)(params, batch)[:, :used])
  assert bool(jnp.isfinite(short).all())
  assert float(jnp.abs(before - short)[:, :used].max()) > 1e-3  # the fifth state did matter


def test_packed_row_equals_separate_rows():
  config = HunyuanVideoConfig(**TINY, clean_time='zero')
  params = {'params': parity.random_params(HunyuanVideo(config))}
  whole = example(config, rows=1, groups=2)
  whole['clean'][0, 14:20] = True
  per_segment = ('t', 'pooled', 'guidance')
  packed = dict(whole)
  packed['segments'] = np.repeat([[1, 2, 0]], (12, 12, 6), axis=1).astype(np.int32)
  packed['state_segments'] = np.array([[1, 1, 2, 2, 0]], np.int32)
  together = jitted(config)(params, packed)
  assert bool(jnp.isfinite(together).all())

  for group in range(2):
    alone = {name: array[:, 2 * group:2 * group + 2] if name.startswith('state')
             else array[:, 12 * group:12 * group + 12]
             for name, array in whole.items() if name not in per_segment}
    alone |= {name: whole[name][:, group:group + 1] for name in per_segment}
    separate = jitted(config)(params, alone)
    np.testing.assert_allclose(together[:, 12 * group:12 * group + 12], separate, atol=1e-5)


def test_bf16_stays_near_fp32():
  config = HunyuanVideoConfig(**TINY, clean_time='zero')
  params = {'params': parity.random_params(HunyuanVideo(config), scale=0.1)}
  batch = example(config, rows=1, groups=2)
  exact, rounded = (jitted(config, dtype)(params, batch) for dtype in (jnp.float32, jnp.bfloat16))
  assert rounded.dtype == jnp.float32
  assert 0 < float(jnp.abs(rounded - exact).max()) < 0.1 * float(jnp.abs(exact).mean())


def test_mean_of_an_empty_segment_is_zero():
  states = jnp.array([[[2.0], [4.0], [7.0]]])
  means = segment_means(states, jnp.array([[1, 1, 0]]), 2)
  assert means.tolist() == [[[3.0], [0.0]]]


def test_configs_come_back():
  for fields in MODES.values():
    config = HunyuanVideoConfig(**(TINY | fields | dict(remat='none')))
    theirs = table.FAMILY.write_config(config.__dict__)
    section = table.FAMILY.read_config(theirs, (), 'config.json')
    assert section.pop('family') == 'hunyuan_video' and HunyuanVideoConfig(**section) == config
  with pytest.raises(UserError, match='patch_size'):
    table.FAMILY.read_config(theirs | dict(patch_size=4), (), 'config.json')


def test_original_names_are_those_that_diffusers_translates():
  module = HunyuanVideo(HunyuanVideoConfig(**TINY))
  params = parity.random_params(module)
  original = engine.to_torch(table.ORIGINAL_RULES, params)
  expected = engine.to_torch(table.RULES, params)
  # diffusers splits linear1 at the published width only; here it is split at ours.
  fused = {name: array for name, array in original.items() if '.linear1.' in name}
  translated = rename_to_diffusers(
      {name: torch.tensor(array) for name, array in original.items() if name not in fused})
  for name, array in fused.items():
    block, kind = name.replace('single_blocks', 'single_transformer_blocks').split('.linear1.')
    parts = zip(('attn.to_q', 'attn.to_k', 'attn.to_v', 'proj_mlp'),
                np.split(array, (32, 64, 96)))
    translated |= {f'{block}.{part}.{kind}': rows for part, rows in parts}
  assert translated.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(translated[name], array, err_msg=name)
  again = engine.from_torch(table.ORIGINAL_RULES, original, registry.param_shapes(module))
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_every_parameter_names_its_axes():
  parity.assert_axes_named(HunyuanVideo(HunyuanVideoConfig(**TINY)))


@pytest.mark.parametrize('wrong, field', [
    (dict(heads=3), 'heads'), (dict(axes_dims=(4, 6, 8)), 'axes_dims'), (dict(remat='x'), 'remat'),
    (dict(clean_time='now'), 'clean_time'), (dict(pooled_dim=0), 'pooled_dim'),
])
def test_sizes_that_do_not_fit_are_named(wrong, field):
  with pytest.raises(UserError, match=f'denoiser.{field}'):
    HunyuanVideoConfig(**(TINY | wrong))
