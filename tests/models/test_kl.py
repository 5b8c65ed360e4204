"""The KL and pixel autoencoders and patchify against diffusers."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers import FluxPipeline
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.tables import kl
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models.autoencoders.kl import KLAutoencoder
from jaxgen.models.autoencoders.kl import KLConfig
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.autoencoders.patchify import unpatchify
from jaxgen.models.autoencoders.pixel import PixelAutoencoder
from jaxgen.models.autoencoders.pixel import PixelConfig
from jaxgen.models.autoencoders.tiling import Tiling
from tests.models import parity
from tests.models.clips import channels_first
from tests.models.clips import decoded
from tests.models.clips import posterior

CONFIG = KLConfig(channels=16, block_channels=(8, 16, 16), layers_per_block=1, norm_groups=4)
SIZE = (16, 24)  # not square, so that swapped sides show


@functools.cache
def random_params():
  shapes = nn.unbox(jax.eval_shape(
      KLAutoencoder(CONFIG).init, jax.random.key(0),
      jax.ShapeDtypeStruct((1, *SIZE, 3), np.float32)))['params']
  rng = np.random.default_rng(0)
  return trees.map_named(
      lambda _, leaf: (0.2 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


@functools.cache
def torch_model():
  model = AutoencoderKL.from_config(
      kl.FAMILY.write_config(CONFIG.__dict__)
      | dict(down_block_types=['DownEncoderBlock2D'] * 3, up_block_types=['UpDecoderBlock2D'] * 3))
  return parity.load(model, kl.RULES, random_params())


def images():
  return np.random.default_rng(1).uniform(-1, 1, (2, *SIZE, 3)).astype(np.float32)


@functools.cache
def compiled(config, method):
  return jax.jit(functools.partial(KLAutoencoder(config).apply, method=method))


def run(method, *args, config=CONFIG):
  return jax.tree.map(np.asarray, compiled(config, method)({'params': random_params()}, *args))


def their_latents(model, images):
  """FluxPipeline shifts, then scales."""
  return (posterior(model, images)[0] - CONFIG.shift) * CONFIG.scaling


def their_images(model, latents):
  return decoded(model, latents / CONFIG.scaling + CONFIG.shift)


def test_moments_and_latents_equal_diffusers():
  moments = run('moments', images())
  parity.assert_near(moments, parity.theirs(torch_model(), posterior, images()))
  parity.assert_near(run('encode', images()),
                     parity.theirs(torch_model(), their_latents, images()))
  assert moments[0].shape == (2, SIZE[0] // CONFIG.factor, SIZE[1] // CONFIG.factor, 16)


def test_images_equal_diffusers():
  latents = np.random.default_rng(2).normal(size=(2, 4, 6, 16)).astype(np.float32)
  parity.assert_near(run('decode', latents), parity.theirs(torch_model(), their_images, latents))


def test_shift_and_scaling_are_applied_once_each_way():
  mean, _ = run('moments', images())
  plain = dataclasses.replace(CONFIG, scaling=1.0, shift=0.0)
  np.testing.assert_allclose(run('decode', run('encode', images())),
                             run('decode', mean, config=plain), atol=1e-4)


def test_samples_have_the_posterior_of_diffusers():
  rng = jax.random.key(3)
  noise = np.asarray(jax.random.normal(rng, (2, 4, 6, 16)))

  def samples(model, images, noise):
    mean, log_variance = posterior(model, images)
    return (mean + torch.exp(log_variance / 2) * noise - CONFIG.shift) * CONFIG.scaling

  parity.assert_near(run('sample', images(), rng),
                     parity.theirs(torch_model(), samples, images(), noise))


def test_tiles_equal_diffusers():
  def tiled(run):
    def call(model, *args):
      model.enable_tiling()
      model.tile_sample_min_size, model.tile_latent_min_size = 16, 4
      return run(model, *args)
    return call

  large = np.random.default_rng(4).uniform(-1, 1, (1, 28, 36, 3)).astype(np.float32)
  config = dataclasses.replace(CONFIG, tiling=Tiling(size=16, stride=12))
  latents = run('encode', large, config=config)
  expected = parity.theirs(torch_model(), tiled(their_latents), large)
  parity.assert_near(latents, expected)
  assert np.abs(run('encode', large) - expected.exact).max() > 1e-3  # the tiles were there
  parity.assert_near(run('decode', latents, config=config),
                     parity.theirs(torch_model(), tiled(their_images), latents))


def test_original_names_are_those_that_diffusers_translates():
  """``ae.safetensors`` of Black Forest Labs, whose decoder is numbered from its end."""
  original = {name: torch.tensor(np.asarray(leaf))
              for name, leaf in to_torch(kl.ORIGINAL_RULES, random_params()).items()}
  assert original['decoder.up.2.upsample.conv.weight'].shape == (16, 16, 3, 3)
  translated = convert_ldm_vae_checkpoint(original, torch_model().config)
  expected = to_torch(kl.RULES, random_params())
  assert translated.keys() == expected.keys()
  for name, leaf in expected.items():
    # Their translation leaves out the last two dimensions of the attention's.
    np.testing.assert_array_equal(translated[name].reshape(leaf.shape), leaf, err_msg=name)


def test_patchify_has_the_channel_order_of_flux():
  latents = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32)
  theirs = FluxPipeline._pack_latents(channels_first(torch.tensor(latents)), 2, 5, 4, 6).numpy()
  tokens = patchify(latents, 2)
  np.testing.assert_array_equal(tokens, theirs)
  np.testing.assert_array_equal(unpatchify(tokens, (2, 3), 2), latents)


def test_pixel_autoencoder_is_exact_and_has_no_parameters():
  model = PixelAutoencoder(PixelConfig(4))
  assert not model.init(jax.random.key(0), images())
  latents = model.apply({}, images(), method='encode')
  assert latents.shape == (2, 4, 6, 48)
  np.testing.assert_array_equal(latents[0, 1, 2].reshape(3, 4, 4),
                                images()[0, 4:8, 8:12].transpose(2, 0, 1))
  np.testing.assert_array_equal(model.apply({}, latents, method='decode'), images())


def test_channels_that_do_not_fit_the_groups_are_named():
  with pytest.raises(UserError, match='autoencoder.block_channels'):
    KLConfig(block_channels=(100, 256))
