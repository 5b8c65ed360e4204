"""Z-Image against diffusers' ZImageTransformer2DModel: images and captions of mixed sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import ZImageTransformer2DModel

from jaxgen.conversion.tables import z_image
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.denoisers.z_image import ZImage
from jaxgen.models.denoisers.z_image import ZImageConfig
from tests.models import parity
from tests.models.rows import denoiser_inputs

TINY = dict(in_channels=8, cond_dim=10, width=24, heads=2, layers=2, refiner_layers=1,
            axes_dims=(4, 4, 4))
# Token grid and words of each sample: with learned pads for both, and without for the second text.
SAMPLES = (((5, 7), 6), ((2, 3), 32))
MULTIPLE = 32
T = np.array([[0.2, 0.9]], np.float32)


def padded(length):
  return -(-length // MULTIPLE) * MULTIPLE


def sample(config, group):
  """One sample of one segment: its tokens and captions up to the next multiple."""
  rng = np.random.default_rng(group)
  (rows, columns), words = SAMPLES[group]
  length, text = padded(rows * columns), padded(words)
  positions, pads = np.zeros((length, 3), np.int32), np.arange(length) >= rows * columns
  h, w = np.indices((rows, columns)).reshape(2, -1)
  positions[~pads] = np.stack([np.full_like(h, text + 1), h, w], axis=-1)
  state_positions = np.zeros((text, 3), np.int32)
  state_positions[:, 0] = 1 + np.arange(text)
  return dict(
      latents=rng.normal(size=(length, config.in_channels)).astype(np.float32),
      positions=positions, segments=np.ones(length, np.int32), pads=pads,
      states=rng.normal(size=(text, config.cond_dim)).astype(np.float32),
      state_positions=state_positions, state_segments=np.ones(text, np.int32),
      state_pads=np.arange(text) >= words)


def packed(config):
  """Both samples in one row, and three absent tokens behind each stream."""
  parts = [sample(config, group) for group in range(len(SAMPLES))]
  row = {name: np.concatenate([part[name] * (group + 1) if name.endswith('segments')
                               else part[name] for group, part in enumerate(parts)])
         for name in parts[0]}
  return {name: np.pad(array, [(0, 3)] + [(0, 0)] * (array.ndim - 1))[None]
          for name, array in row.items()} | dict(t=T)


def spans(config, kind):
  """Where the tokens (not the pads) of each sample stand in the packed row."""
  starts, start = [], 0
  for (rows, columns), words in SAMPLES:
    length = rows * columns if kind == 'latents' else words
    starts.append(slice(start, start + length))
    start += padded(length)
  return starts


def torch_model(config, params):
  return parity.load(
      ZImageTransformer2DModel.from_config(z_image.FAMILY.write_config(config.__dict__)),
      z_image.RULES, params)


def torch_velocities(model, latents, states):
  """Velocities [L, C] of both samples in one call; tokens f[L, C] as tensors."""
  images = []
  for (rows, columns), tokens in zip((grid for grid, _ in SAMPLES), latents):
    image = tokens.reshape(rows, columns, -1, 2, 2).permute(2, 0, 3, 1, 4)
    images.append(image.reshape(-1, 1, 2 * rows, 2 * columns))
  out = model(images, torch.tensor(1 - T[0]), list(states), return_dict=False)[0]
  return [-image.reshape(-1, rows, 2, columns, 2).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)
          for image, ((rows, columns), _) in zip(out, SAMPLES)]


@functools.cache
def jitted(config):
  return jax.jit(lambda params, batch: ZImage(config).apply(params, *denoiser_inputs(**batch)))


@pytest.mark.parametrize('fields', [{}, dict(theta=50.0, remat='dots')],
                         ids=['stock', 'theta'])
def test_a_packed_row_equals_diffusers_on_mixed_sizes(fields):
  config = ZImageConfig(**(TINY | fields))
  params, batch = parity.random_params(ZImage(config)), packed(config)
  latent_spans, state_spans = spans(config, 'latents'), spans(config, 'states')

  def apply(variables, batch):
    velocity = jitted(config)(variables, batch)[0]
    return jnp.concatenate([velocity[span] for span in latent_spans])

  def run(model, latents, states):
    return torch.cat(torch_velocities(model, [latents[0, span] for span in latent_spans],
                                      [states[0, span] for span in state_spans]))

  parity.assert_same_with_gradients(apply, params, batch, torch_model(config, params), run,
                                    z_image.RULES, ('latents', 'states'))


def test_packed_row_equals_separate_rows():
  config = ZImageConfig(**TINY)
  params = {'params': parity.random_params(ZImage(config))}
  together = jitted(config)(params, packed(config))
  start = 0
  for group in range(len(SAMPLES)):
    alone = {name: array[None] for name, array in sample(config, group).items()}
    separate = jitted(config)(params, alone | dict(t=T[:, group:group + 1]))
    length = separate.shape[1]
    np.testing.assert_allclose(together[:, start:start + length], separate, atol=1e-5)
    start += length


def test_learned_pads_take_part_in_attention():
  config = ZImageConfig(**TINY)
  params = {'params': parity.random_params(ZImage(config))}
  batch = packed(config)
  span = spans(config, 'latents')[0]
  ours = jitted(config)(params, batch)[0, span]
  for segments, pads in (('segments', 'pads'), ('state_segments', 'state_pads')):
    without = dict(batch, **{segments: batch[segments] * ~batch[pads]})
    assert float(jnp.abs(ours - jitted(config)(params, without)[0, span]).max()) > 1e-3, pads
    # What stands under a pad is nobody's business.
    array = 'states' if pads == 'state_pads' else 'latents'
    hidden = dict(batch, **{array: np.where(batch[pads][..., None], 7, batch[array])})
    np.testing.assert_array_equal(ours, jitted(config)(params, hidden)[0, span])


def test_configs_come_back():
  config = ZImageConfig(**TINY)
  theirs = z_image.FAMILY.write_config(config.__dict__)
  section = z_image.FAMILY.read_config(theirs, (), 'config.json')
  assert section.pop('family') == 'z_image' and ZImageConfig(**section) == config
  with pytest.raises(UserError, match='siglip_feat_dim'):
    z_image.FAMILY.read_config(theirs | dict(siglip_feat_dim=1152), (), 'config.json')


def test_every_parameter_names_its_axes():
  parity.assert_axes_named(ZImage(ZImageConfig(**TINY)))


def test_fresh_model_predicts_zero():
  config = ZImageConfig(**TINY)
  variables = jax.jit(lambda key: registry.init(ZImage(config), key))(jax.random.key(0))
  assert float(jnp.abs(jitted(config)(variables, packed(config))).max()) == 0


@pytest.mark.parametrize('wrong, field', [
    (dict(heads=5), 'heads'), (dict(axes_dims=(4, 4, 6)), 'axes_dims'), (dict(remat='x'), 'remat'),
    (dict(in_channels=6), 'in_channels'),
])
def test_sizes_that_do_not_fit_are_named(wrong, field):
  with pytest.raises(UserError, match=f'denoiser.{field}'):
    ZImageConfig(**(TINY | wrong))
