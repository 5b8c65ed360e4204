"""Wan's causal autoencoder against diffusers' classes, and its original names."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from jaxgen.conversion import engine
from jaxgen.conversion.tables import wan_vae as table
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.autoencoders.tiling import Tiling
from jaxgen.models.autoencoders.wan import WanVAE
from jaxgen.models.autoencoders.wan import WanVAEConfig
from tests.models import parity
from tests.models.clips import assert_bf16_near_fp32
from tests.models.clips import decoded
from tests.models.clips import latents
from tests.models.clips import pixels
from tests.models.clips import posterior
from tests.models.clips import run

CONFIG = WanVAEConfig(block_channels=(4, 8, 16, 16), mean=(0.1, -0.2, 0.3, 0.4),
                      std=(1.5, 0.7, 2.0, 1.1))
MODEL = WanVAE(CONFIG)
# Tiles of 4 x 4 latent pixels, of an autoencoder with one halving.
TILED = WanVAE(dataclasses.replace(CONFIG, block_channels=(4, 8), temporal=(True,),
                                   tiling=Tiling(size=8, stride=6)))
WHOLE = WanVAE(dataclasses.replace(TILED.config, tiling=Tiling()))


@functools.cache
def params(module=MODEL):
  return parity.random_params(module, scale=0.3)


@functools.cache
def theirs(kind=AutoencoderKLWan, module=MODEL):
  family = {AutoencoderKLWan: table.FAMILY, AutoencoderKLQwenImage: table.QWEN_IMAGE}[kind]
  model = kind.from_config(family.write_config(module.config.__dict__))
  if module.config.tiling.size:
    model.enable_tiling(8, 8, 6, 6)
  return parity.load(model, family.rules, params(module)).requires_grad_(False)


def normalised(mean):
  """As Wan's pipelines do it; arrays or tensors."""
  kind = torch.tensor if isinstance(mean, torch.Tensor) else np.float32
  return (mean - kind(CONFIG.mean)) * (1 / kind(CONFIG.std))


def their_latents(model, images):
  """Of images f[n, H, W, 3]."""
  return normalised(posterior(model, images[:, None])[0][:, 0])


def their_images(model, z):
  """Of normalised latents f[n, T, h, w, c]."""
  return decoded(model, z * torch.tensor(CONFIG.std) + torch.tensor(CONFIG.mean))


@pytest.mark.parametrize('kind', [AutoencoderKLWan, AutoencoderKLQwenImage])
def test_clips_equal_diffusers(kind):
  clip = pixels(2, 9, 16, 24)
  mean, log_variance = run(MODEL, params(), 'moments', clip)
  assert mean.shape == (2, 3, 2, 3, 4)
  assert np.abs(mean[:, 1:] - mean[:, :-1]).mean() > 0.01  # every frame has its own latents
  parity.assert_near((mean, log_variance), parity.theirs(theirs(kind), posterior, clip))
  z = normalised(mean)
  images = run(MODEL, params(), 'decode', z)
  assert images.shape == clip.shape and 0 < (np.abs(images) == 1).mean() < 0.5  # clipped
  parity.assert_near(images, parity.theirs(theirs(kind), their_images, z))


def test_an_image_is_one_latent_frame_normalised_once_each_way():
  images = pixels(2, 16, 24)
  z = run(MODEL, params(), 'encode', images)
  parity.assert_near(z, parity.theirs(theirs(), their_latents, images))
  expected = parity.theirs(theirs(), lambda model, z: their_images(model, z[:, None])[:, 0], z)
  parity.assert_near(run(MODEL, params(), 'decode', z), expected)


def test_samples_have_the_posterior_of_diffusers():
  images, rng = pixels(2, 16, 24), jax.random.key(3)
  noise = np.asarray(jax.random.normal(rng, (2, 2, 3, 4)))

  def samples(model, images, noise):
    mean, log_variance = (part[:, 0] for part in posterior(model, images[:, None]))
    return normalised(mean + torch.exp(log_variance / 2) * noise)

  parity.assert_near(run(MODEL, params(), 'sample', images, rng),
                     parity.theirs(theirs(), samples, images, noise))


def test_later_frames_leave_no_trace():
  clip = pixels(2, 9, 16, 24)
  other = np.concatenate([clip[:, :5], pixels(2, 4, 16, 24, seed=5)], axis=1)
  whole, changed = (run(MODEL, params(), 'moments', x)[0] for x in (clip, other))
  np.testing.assert_array_equal(whole[:, :2], changed[:, :2])
  assert np.abs(whole[:, 2] - changed[:, 2]).max() > 1e-3
  np.testing.assert_allclose(run(MODEL, params(), 'encode', clip[:, 0]), normalised(whole[:, 0]),
                             atol=1e-5)


def test_tiles_equal_diffusers():
  """Two rows of three tiles of an image; when decoding, a clip in two."""
  images = pixels(1, 10, 14)
  tiled, whole = (parity.theirs(theirs(module=module), their_latents, images)
                  for module in (TILED, WHOLE))
  assert np.abs(whole.exact - tiled.exact).max() > 1e-3  # the tiles matter
  parity.assert_near(run(TILED, params(TILED), 'encode', images), tiled)
  z = latents(1, 2, 5, 3, 4)
  parity.assert_near(run(TILED, params(TILED), 'decode', z),
                     parity.theirs(theirs(module=TILED), their_images, z))


def test_original_names_are_those_that_diffusers_renames():
  """The table of ``Wan2.1_VAE.pth`` against diffusers' own converter, and back again."""
  original = engine.to_torch(table.ORIGINAL_RULES, params())
  assert {'encoder.downsamples.5.time_conv.weight', 'decoder.upsamples.14.residual.6.bias',
          'decoder.head.2.weight', 'conv1.bias'} <= original.keys()
  renamed = convert_wan_vae_to_diffusers(dict(original))
  expected = engine.to_torch(table.RULES, params())
  assert renamed.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(renamed[name], array, err_msg=name)
  again = trees.flatten(engine.from_torch(table.ORIGINAL_RULES, original, params()))
  for path, leaf in trees.flatten(params()).items():
    np.testing.assert_array_equal(again[path], leaf, err_msg=path)


def test_bf16_stays_near_fp32():
  assert_bf16_near_fp32(MODEL, params(), pixels(2, 16, 24))


def test_published_sizes():
  full = registry.build(registry.section('wan_vae'), np.float32)
  with torch.device('meta'):
    config = AutoencoderKLWan().config
  assert WanVAEConfig(**{name: value for name, value in table.FAMILY.read_config(
      config, (), 'defaults').items() if name != 'family'}) == full.config
  assert (full.config.factor, full.config.temporal_factor) == (8, 4)
  parity.assert_axes_named(full)


@pytest.mark.parametrize('field, fields', [
    ('temporal', dict(temporal=(True, True))),
    ('block_channels', dict(block_channels=(96, 193, 384, 384))),
    ('std', dict(std=(1.0,) * 15)),
    ('tiling.frames', dict(tiling=Tiling(frames=16, frame_stride=12))),
])
def test_sizes_that_do_not_fit_are_named(field, fields):
  with pytest.raises(UserError, match=f'autoencoder.{field}'):
    WanVAEConfig(**fields)
