"""The MMDiT against diffusers' FluxTransformer2DModel, and what packing adds to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers as rename_to_diffusers)

from jaxgen.conversion import engine
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.tables import flux
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.mmdit import MMDiTConfig
from tests.models import parity
from tests.models.rows import denoiser_inputs

TINY = dict(in_channels=8, cond_dim=20, width=32, heads=2, double_blocks=2, single_blocks=3,
            axes_dims=(4, 6, 6))
GRID, TEXT = (3, 4), 5


def example(config, rows=1, groups=1):
  """Inputs with one segment per row, on a grid of image tokens."""
  rng = np.random.default_rng(0)
  length = GRID[0] * GRID[1]
  h, w = np.indices(GRID).reshape(2, -1)
  positions = np.stack([np.zeros_like(h), h, w], axis=-1)
  return dict(
      latents=rng.normal(size=(rows, length, config.in_channels)).astype(np.float32),
      t=rng.uniform(size=(rows, groups)).astype(np.float32),
      positions=np.tile(positions, (rows, 1, 1)).astype(np.int32),
      segments=np.ones((rows, length), np.int32),
      states=rng.normal(size=(rows, TEXT, config.cond_dim)).astype(np.float32),
      state_positions=np.zeros((rows, TEXT, 3), np.int32),
      state_segments=np.ones((rows, TEXT), np.int32),
  )


def random_params(config):
  return parity.random_params(MMDiT(config))


def vectors(config, rows, groups=1):
  """Guidance and pooled inputs where the config asks for them."""
  rng = np.random.default_rng(1)
  extra = {}
  if config.guidance_embed:
    extra['guidance'] = rng.uniform(1, 5, size=(rows, groups)).astype(np.float32)
  if config.pooled_dim:
    extra['pooled'] = rng.normal(size=(rows, groups, config.pooled_dim)).astype(np.float32)
  return extra


def torch_model(config, params):
  """diffusers' class with our weights, carried over by the conversion table."""
  theirs = flux.FAMILY.write_config(config.__dict__)
  return parity.load(FluxTransformer2DModel.from_config(theirs), flux.RULES, params)


def torch_velocity(model, latents, states, batch, pooled=None):
  def tensor(name):
    return torch.tensor(batch[name])

  if pooled is None:
    pooled = torch.ones((len(latents), 1, model.config.pooled_projection_dim))
  return model(
      hidden_states=latents, encoder_hidden_states=states, pooled_projections=pooled[:, 0],
      timestep=tensor('t')[:, 0], img_ids=tensor('positions')[0].float(),
      txt_ids=tensor('state_positions')[0].float(),
      guidance=tensor('guidance')[:, 0] if 'guidance' in batch else None, return_dict=False)[0]


@functools.cache
def jitted(config, dtype=jnp.float32):
  module = MMDiT(config, dtype)
  return jax.jit(lambda params, batch: module.apply(params, *denoiser_inputs(**batch)))


@pytest.mark.parametrize('guidance_embed, pooled_dim, remat, unroll', [
    (False, 0, 'none', 1), (True, 6, 'dots', 1), (True, 0, 'full', 2), (False, 6, 'attention', 1)])
def test_equals_diffusers_outputs_and_gradients(guidance_embed, pooled_dim, remat, unroll):
  config = MMDiTConfig(**TINY, guidance_embed=guidance_embed, pooled_dim=pooled_dim, remat=remat,
                       unroll=unroll)
  params, batch = random_params(config), example(config, rows=2) | vectors(config, rows=2)
  model, inputs = torch_model(config, params), ('latents', 'states')
  if pooled_dim:
    inputs += ('pooled',)
  else:  # constants of the export, not parameters of ours
    model.time_text_embed.text_embedder.requires_grad_(False)
  parity.assert_same_with_gradients(
      jitted(config), params, batch, model, functools.partial(torch_velocity, batch=batch),
      flux.RULES, inputs)


def test_export_without_pooled_vector_loads_in_diffusers_and_returns(tmp_path):
  config = MMDiTConfig(**TINY)
  params, batch = random_params(config), example(config)
  folder = str(tmp_path / 'denoiser')
  save_folder(folder, flux.FAMILY.write_config(config.__dict__),
              engine.to_torch(flux.RULES, params), stem=flux.FAMILY.stem)

  model = FluxTransformer2DModel.from_pretrained(folder)
  theirs = parity.theirs(model, functools.partial(torch_velocity, batch=batch), batch['latents'],
                         batch['states'])
  parity.assert_near(jitted(config)({'params': params}, batch), theirs)

  theirs_config, tensors = load_folder(folder)
  section = flux.FAMILY.read_config(theirs_config, tensors, folder)
  assert section.pop('family') == 'mmdit'
  assert MMDiTConfig(**section) == config
  again = engine.from_torch(flux.RULES, tensors, params)
  for path, leaf in trees.flatten(params).items():
    np.testing.assert_array_equal(trees.flatten(again)[path], leaf, err_msg=path)


@pytest.mark.parametrize('fields', [dict(), dict(guidance_embed=True, pooled_dim=6)])
def test_original_names_are_those_that_diffusers_translates(fields):
  params = random_params(MMDiTConfig(**TINY, **fields))
  original = engine.to_torch(flux.ORIGINAL_RULES, params)
  expected = engine.to_torch(flux.RULES, params)
  # diffusers splits linear1 at the published width only; here it is split at ours.
  fused = {name: array for name, array in original.items() if '.linear1.' in name}
  published = {name: torch.zeros(3 * 3072 + 4 * 3072, 1) for name in fused}
  translated = rename_to_diffusers(
      {name: torch.tensor(array) for name, array in original.items()} | published)
  for name, array in fused.items():
    block, kind = name.replace('single_blocks', 'single_transformer_blocks').split('.linear1.')
    parts = zip(('attn.to_q', 'attn.to_k', 'attn.to_v', 'proj_mlp'),
                np.split(array, (32, 64, 96)))
    translated |= {f'{block}.{part}.{kind}': rows for part, rows in parts}
  assert translated.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(translated[name], array, err_msg=name)
  again = engine.from_torch(flux.ORIGINAL_RULES, original, params)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_import_refuses_a_pooled_vector_that_the_model_cannot_hold():
  params = random_params(MMDiTConfig(**TINY))
  tensors = engine.to_torch(flux.RULES, params)
  name = 'time_text_embed.text_embedder.linear_2.bias'
  tensors[name] = tensors[name] + 1
  with pytest.raises(UserError, match=name):
    engine.from_torch(flux.RULES, tensors, params)


def test_export_refuses_what_diffusers_cannot_express():
  config = MMDiTConfig(**TINY, mlp_ratio=2.0)
  with pytest.raises(UserError, match='mlp_ratio'):
    flux.FAMILY.write_config(config.__dict__)


def test_packed_row_equals_separate_rows():
  config = MMDiTConfig(**TINY, guidance_embed=True, pooled_dim=6)
  params = {'params': random_params(config)}
  whole = example(config)
  extra = vectors(config, 1, groups=2)
  t = np.array([[0.2, 0.9]], np.float32)
  latent_spans, state_spans = ((0, 7), (7, 11)), ((0, 2), (2, 5))  # the last latent is padding

  packed = dict(whole, t=t)
  packed['segments'] = np.array([[1] * 7 + [2] * 4 + [0]], np.int32)
  packed['state_segments'] = np.array([[1] * 2 + [2] * 3], np.int32)
  together = jitted(config)(params, packed | extra)

  for group, ((a, b), (c, d)) in enumerate(zip(latent_spans, state_spans)):
    alone = {name: array[:, c:d] if name.startswith('state') else array[:, a:b]
             for name, array in whole.items() if name != 't'}
    chosen = {name: array[:, group:group + 1] for name, array in extra.items()}
    separate = jitted(config)(params, alone | chosen | dict(t=t[:, group:group + 1]))
    np.testing.assert_allclose(together[:, a:b], separate, atol=1e-5)


def test_bf16_compute_keeps_near_times_apart():
  config = MMDiTConfig(**TINY)
  params, batch = {'params': random_params(config)}, example(config)

  @jax.jit
  def embedded(t):
    _, state = MMDiT(config, jnp.bfloat16).apply(
        params, *denoiser_inputs(**dict(batch, t=t[None, None])), mutable='intermediates',
        capture_intermediates=lambda module, _: module.name == 'vectors')
    return state['intermediates']['vectors']['__call__'][0]

  first, second, again = (embedded(jnp.float32(t)) for t in (0.7501, 0.7502, 0.7501))
  assert first.dtype == jnp.float32
  assert float(jnp.abs(first - second).max()) > 1e-3
  assert float(jnp.abs(first - again).max()) == 0


def test_fresh_model_predicts_zero():
  config = MMDiTConfig(**TINY)
  variables = jax.jit(lambda key: registry.init(MMDiT(config), key))(jax.random.key(0))
  assert float(jnp.abs(jitted(config)(variables, example(config))).max()) == 0


@pytest.mark.parametrize('width, total', [(1536, 1.57e9), (2048, 2.79e9)])
def test_iomm_presets_have_the_published_sizes(width, total):
  config = MMDiTConfig(in_channels=64, cond_dim=1536, width=width, heads=width // 128,
                       double_blocks=10, single_blocks=20)
  count = parity.count(MMDiT(config))
  assert abs(count - total) < 0.005e9, count


def test_flux_dev_has_the_published_size():
  config = MMDiTConfig(guidance_embed=True, pooled_dim=768)
  count = parity.count(MMDiT(config))
  assert abs(count - 11.90e9) < 0.005e9, count


def test_every_parameter_names_its_axes():
  config = MMDiTConfig(**TINY, guidance_embed=True, pooled_dim=6)
  parity.assert_axes_named(MMDiT(config))


@pytest.mark.parametrize('wrong, field', [
    (dict(heads=3), 'heads'), (dict(axes_dims=(4, 6, 8)), 'axes_dims'), (dict(remat='x'), 'remat'),
    (dict(unroll=0), 'unroll'),
])
def test_sizes_that_do_not_fit_are_named(wrong, field):
  with pytest.raises(UserError, match=f'denoiser.{field}'):
    MMDiTConfig(**(TINY | wrong))
