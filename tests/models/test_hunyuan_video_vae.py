"""HunyuanVideo's causal autoencoder against diffusers' AutoencoderKLHunyuanVideo."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo

from jaxgen.conversion.tables import hunyuan_video_vae as table
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.autoencoders.hunyuan_video import HunyuanVideoVAE
from jaxgen.models.autoencoders.hunyuan_video import HunyuanVideoVAEConfig
from jaxgen.models.autoencoders.tiling import Tiling
from tests.models import parity
from tests.models.clips import assert_bf16_near_fp32
from tests.models.clips import decoded
from tests.models.clips import latents
from tests.models.clips import pixels
from tests.models.clips import posterior
from tests.models.clips import run

# Four resolutions, so that the first step leaves the frames alone; sides that differ.
CONFIG = HunyuanVideoVAEConfig(channels=4, block_channels=(4, 4, 8, 8), layers_per_block=1,
                               norm_groups=2, tiling=Tiling())
MODEL = HunyuanVideoVAE(CONFIG)
TILED = HunyuanVideoVAE(dataclasses.replace(
    CONFIG, tiling=Tiling(size=32, stride=24, frames=8, frame_stride=4)))


@functools.cache
def params():
  return parity.random_params(MODEL, scale=0.2)


@functools.cache
def theirs():
  model = AutoencoderKLHunyuanVideo.from_config(table.FAMILY.write_config(CONFIG.__dict__))
  return parity.load(model, table.RULES, params()).requires_grad_(False)


@functools.cache
def theirs_tiled():
  model = AutoencoderKLHunyuanVideo.from_config(table.FAMILY.write_config(CONFIG.__dict__))
  model.enable_tiling(32, 32, 8, 24, 24, 4)
  return parity.load(model, table.RULES, params()).requires_grad_(False)


def their_latents(model, clip):
  return posterior(model, clip)[0] * CONFIG.scaling


def their_images(model, z):
  return decoded(model, z / CONFIG.scaling)


def of_images(run):
  """``run`` of clips of one frame, which is put there and taken off again."""
  return lambda model, images: run(model, images[:, None])[:, 0]


def test_moments_and_latents_of_a_clip_equal_diffusers():
  clip = pixels(2, 9, 16, 24)
  moments = run(MODEL, params(), 'moments', clip)
  assert moments[0].shape == (2, 3, 2, 3, 4) and np.abs(moments[0]).mean() > 0.1
  parity.assert_near(moments, parity.theirs(theirs(), posterior, clip))


def test_an_image_is_one_latent_frame_scaled_once_each_way():
  images = pixels(2, 16, 24)
  z = run(MODEL, params(), 'encode', images)
  parity.assert_near(z, parity.theirs(theirs(), of_images(their_latents), images))
  parity.assert_near(run(MODEL, params(), 'decode', z),
                     parity.theirs(theirs(), of_images(their_images), z))


def test_clips_and_frames_decode_as_in_diffusers():
  z = latents(2, 3, 2, 3, 4)
  ours = run(MODEL, params(), 'decode', z)
  assert ours.shape == (2, 9, 16, 24, 3)
  parity.assert_near(ours, parity.theirs(theirs(), their_images, z))


def test_samples_have_the_posterior_of_diffusers():
  images, rng = pixels(2, 16, 24), jax.random.key(3)
  noise = np.asarray(jax.random.normal(rng, (2, 2, 3, 4)))

  def samples(model, images, noise):
    mean, log_variance = (part[:, 0] for part in posterior(model, images[:, None]))
    return (mean + torch.exp(log_variance / 2) * noise) * CONFIG.scaling

  parity.assert_near(run(MODEL, params(), 'sample', images, rng),
                     parity.theirs(theirs(), samples, images, noise))


def test_tiles_of_a_clip_equal_diffusers():
  """Three tiles in time, the last cut short, and each of them two in height."""
  clip = pixels(1, 13, 40, 24)
  parity.assert_near(run(TILED, params(), 'encode', clip),
                     parity.theirs(theirs_tiled(), their_latents, clip))
  z = latents(1, 4, 5, 3, 4)
  parity.assert_near(run(TILED, params(), 'decode', z),
                     parity.theirs(theirs_tiled(), their_images, z))


def test_tiles_of_an_image_equal_diffusers():
  """Two rows of three tiles."""
  images = pixels(1, 40, 56)
  expected = parity.theirs(theirs_tiled(), of_images(their_latents), images)
  parity.assert_near(run(TILED, params(), 'encode', images), expected)
  whole = run(MODEL, params(), 'encode', images)
  assert np.abs(whole - expected.exact).max() > 1e-3  # the tiles were there


def test_bf16_stays_near_fp32():
  assert_bf16_near_fp32(MODEL, params(), pixels(2, 16, 24))


def test_published_sizes():
  full = registry.build(registry.section('hunyuan_video_vae'), np.float32)
  assert (full.config.factor, full.config.temporal_factor) == (8, 4)
  tiling = full.config.tiling
  assert (tiling.frames, tiling.frame_stride) == (
      theirs().tile_sample_min_num_frames, theirs().tile_sample_stride_num_frames)
  parity.assert_axes_named(full)


def test_config_of_the_release_is_read():
  """Fields of HunyuanVideo's own vae/config.json, whose blocks and ratios bear other names."""
  released = dict(
      _class_name='AutoencoderKLCausal3D', act_fn='silu', block_out_channels=[128, 256, 512, 512],
      down_block_types=['DownEncoderBlockCausal3D'] * 4, in_channels=3, latent_channels=16,
      layers_per_block=2, norm_num_groups=32, out_channels=3, sample_size=256, sample_tsize=64,
      up_block_types=['UpDecoderBlockCausal3D'] * 4, scaling_factor=0.476986,
      time_compression_ratio=4, mid_block_add_attention=True)
  section = table.RELEASED.read_config(released, (), 'config.json')
  assert section.pop('family') == 'hunyuan_video_vae'
  tiling = Tiling(**section.pop('tiling'))
  assert tiling == Tiling(size=256, stride=192, frames=64, frame_stride=48)  # it always works so
  assert HunyuanVideoVAEConfig(**section) == HunyuanVideoVAEConfig()
  with pytest.raises(UserError, match='time_compression_ratio'):
    table.RELEASED.read_config(released | dict(time_compression_ratio=8), (), 'config.json')


@pytest.mark.parametrize('field, fields', [
    ('block_channels', dict(block_channels=(128, 100, 256))),
    ('block_channels', dict(block_channels=(128, 256))),
    ('tiling.stride', dict(tiling=Tiling(size=64, stride=65))),
    ('tiling.stride', dict(tiling=Tiling(size=64, stride=44))),
    ('tiling.frame_stride', dict(tiling=Tiling(frames=16, frame_stride=6))),
    ('scaling', dict(scaling=0.0)),
])
def test_sizes_that_do_not_fit_are_named(field, fields):
  with pytest.raises(UserError, match=f'autoencoder.{field}'):
    HunyuanVideoVAEConfig(**fields)
