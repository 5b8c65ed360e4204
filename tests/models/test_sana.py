"""SANA against diffusers' SanaTransformer2DModel, and its layers against plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import SanaTransformer2DModel

from jaxgen.conversion.tables import sana
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.denoisers.sana import Sana
from jaxgen.models.denoisers.sana import SanaConfig
from jaxgen.models.layers.linear_attention import attend_linearly
from jaxgen.models.layers.neighbours import neighbour_sum
from jaxgen.models.layers.neighbours import neighbours
from tests.models import parity
from tests.models.rows import denoiser_inputs

TINY = dict(in_channels=6, cond_dim=10, width=24, heads=3, cross_heads=2, layers=2)
GRID, TEXT = (4, 5), 6


def places(rows, columns):
  """i32[rows * columns, 3] in reading order."""
  h, w = np.indices((rows, columns)).reshape(2, -1)
  return np.stack([np.zeros_like(h), h, w], axis=-1).astype(np.int32)


def example(config, rows=1):
  """Inputs with one segment per row; captions of different lengths."""
  rng = np.random.default_rng(0)
  length = GRID[0] * GRID[1]
  words = TEXT - 2 * np.arange(rows)[:, None]
  return dict(
      latents=rng.normal(size=(rows, length, config.in_channels)).astype(np.float32),
      t=rng.uniform(size=(rows, 1)).astype(np.float32),
      positions=np.tile(places(*GRID), (rows, 1, 1)),
      segments=np.ones((rows, length), np.int32),
      states=rng.normal(size=(rows, TEXT, config.cond_dim)).astype(np.float32),
      state_positions=np.zeros((rows, TEXT, 3), np.int32),
      state_segments=(np.arange(TEXT) < words).astype(np.int32),
  )


def torch_model(config, params):
  return parity.load(
      SanaTransformer2DModel.from_config(sana.FAMILY.write_config(config.__dict__)),
      sana.RULES, params)


def torch_velocity(model, latents, states, batch):
  rows = len(latents)
  out = model(
      hidden_states=latents.reshape(rows, *GRID, -1).permute(0, 3, 1, 2),
      encoder_hidden_states=states, timestep=1000 * torch.tensor(batch['t'][:, 0]),
      encoder_attention_mask=torch.tensor(batch['state_segments']), return_dict=False)[0]
  return out.permute(0, 2, 3, 1).flatten(1, 2)


@functools.cache
def jitted(config):
  return jax.jit(lambda params, batch: Sana(config).apply(params, *denoiser_inputs(**batch)))


@pytest.mark.parametrize('fields', [{}, dict(mlp_ratio=1.5, remat='dots', cross_heads=4)],
                         ids=['stock', 'remat'])
def test_equals_diffusers_outputs_and_gradients(fields):
  config = SanaConfig(**(TINY | fields))
  params, batch = parity.random_params(Sana(config), scale=0.3), example(config, rows=2)
  parity.assert_same_with_gradients(
      jitted(config), params, batch, torch_model(config, params),
      functools.partial(torch_velocity, batch=batch), sana.RULES, ('latents', 'states'))


def test_packed_row_equals_separate_rows():
  config = SanaConfig(**TINY)
  params = {'params': parity.random_params(Sana(config), scale=0.3)}
  grids, state_spans = ((3, 4), (2, 3)), ((0, 2), (2, 6))
  whole, t = example(config), np.array([[0.2, 0.9]], np.float32)
  packed = dict(whole, t=t)
  packed['segments'] = np.array([[1] * 12 + [2] * 6 + [0] * 2], np.int32)
  packed['positions'] = np.concatenate([places(*grids[0]), places(*grids[1]),
                                        np.zeros((2, 3), np.int32)])[None]
  packed['state_segments'] = np.array([[1] * 2 + [2] * 4], np.int32)
  together = jitted(config)(params, packed)
  assert bool(jnp.isfinite(together).all())

  for group, ((a, b), (c, d)) in enumerate(zip(((0, 12), (12, 18)), state_spans)):
    alone = {name: array[:, c:d] if name.startswith('state') else array[:, a:b]
             for name, array in (packed | dict(state_segments=whole['state_segments'],
                                               segments=whole['segments'])).items() if name != 't'}
    separate = jitted(config)(params, alone | dict(t=t[:, group:group + 1]))
    np.testing.assert_allclose(together[:, a:b], separate, atol=1e-5)


def test_tokens_may_stand_in_any_order():
  config = SanaConfig(**TINY)
  params, batch = {'params': parity.random_params(Sana(config), scale=0.3)}, example(config)
  order = np.random.default_rng(3).permutation(GRID[0] * GRID[1])
  shuffled = {name: array[:, order] if name in ('latents', 'positions', 'segments') else array
              for name, array in batch.items()}
  np.testing.assert_allclose(jitted(config)(params, shuffled),
                             jitted(config)(params, batch)[:, order], atol=1e-5)


def test_neighbours_of_two_images_and_padding():
  positions = np.concatenate([places(2, 2), places(2, 2) + [0, 5, 0], np.zeros((1, 3), int)])[None]
  segments = np.array([[1] * 8 + [0]])
  segments[0, 4:8] = 2
  indices = np.asarray(neighbours(jnp.array(positions), jnp.array(segments)))[0]
  none = 9
  assert indices[0].tolist() == [none] * 4 + [0, 1, none, 2, 3]
  assert indices[7].tolist() == [4, 5, none, 6, 7] + [none] * 4
  assert (indices[8] == none).all()
  # One segment may hold several images: another t is another image.
  moved = positions + np.array([[[0, -5, 0]]]) * (segments == 2)[..., None]
  moved[0, 4:8, 0] = 1
  again = np.asarray(neighbours(jnp.array(moved), jnp.array(np.minimum(segments, 1))))[0]
  np.testing.assert_array_equal(again, indices)


def test_neighbour_sum_has_the_gradient_of_its_definition():
  rng = np.random.default_rng(0)
  indices = neighbours(jnp.array(places(3, 4))[None], jnp.ones((1, 12), jnp.int32))
  x, kernel, weight = (rng.normal(size=shape).astype(np.float32)
                       for shape in ((1, 12, 5), (9, 5), (1, 12, 5)))

  def plain(x, kernel):
    outside = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
    return jnp.einsum('LKF,KF->LF', outside[0][indices[0]], kernel)[None]

  def gradients(function):
    loss = jax.jit(jax.grad(lambda x, kernel: jnp.sum(function(x, kernel) * weight), (0, 1)))
    return loss(x, kernel)

  def ours(x, kernel):
    return neighbour_sum(x, kernel, indices)

  np.testing.assert_allclose(ours(x, kernel), plain(x, kernel), atol=1e-5)
  for mine, expected in zip(gradients(ours), gradients(plain)):
    np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_linear_attention_equals_a_loop_over_segments():
  rng = np.random.default_rng(0)
  q, k, v = rng.normal(size=(3, 1, 7, 2, 4)).astype(np.float32)
  q[0, 3] = -1  # a query that no key answers
  segments = np.array([[2, 1, 1, 2, 2, 0, 1]])
  out = np.asarray(attend_linearly(*map(jnp.array, (q, k, v)), jnp.array(segments), 3))
  weights = np.einsum('LNH,SNH->NLS', np.maximum(q[0], 0), np.maximum(k[0], 0))
  weights *= (segments[0][:, None] == segments[0]) & (segments[0] != 0)
  weights /= weights.sum(axis=-1, keepdims=True) + 1e-15
  np.testing.assert_allclose(out[0], np.einsum('NLS,SNH->LNH', weights, v[0]), atol=1e-5)
  assert not out[0, 3].any() and not out[0, 5].any()


def test_configs_come_back():
  config = SanaConfig(**TINY)
  theirs = sana.FAMILY.write_config(config.__dict__)
  section = sana.FAMILY.read_config(theirs, (), 'config.json')
  assert section.pop('family') == 'sana' and SanaConfig(**section) == config
  with pytest.raises(UserError, match='qk_norm'):
    sana.FAMILY.read_config(theirs | dict(qk_norm='rms_norm_across_heads'), (), 'config.json')


def test_every_parameter_names_its_axes():
  parity.assert_axes_named(Sana(SanaConfig(**TINY)))


def test_fresh_model_predicts_zero():
  config = SanaConfig(**TINY)
  variables = jax.jit(lambda key: registry.init(Sana(config), key))(jax.random.key(0))
  assert float(jnp.abs(jitted(config)(variables, example(config))).max()) == 0


@pytest.mark.parametrize('wrong, field', [
    (dict(heads=5), 'heads'), (dict(cross_heads=7), 'cross_heads'), (dict(remat='x'), 'remat'),
])
def test_sizes_that_do_not_fit_are_named(wrong, field):
  with pytest.raises(UserError, match=f'denoiser.{field}'):
    SanaConfig(**(TINY | wrong))
