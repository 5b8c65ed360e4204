"""SANA's deep-compression autoencoder against diffusers' AutoencoderDC."""

import dataclasses
import functools

import numpy as np
import pytest
from diffusers import AutoencoderDC

from jaxgen.conversion.tables import dc_ae as table
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.autoencoders.dc import DCAE
from jaxgen.models.autoencoders.dc import DCAEConfig
from jaxgen.models.autoencoders.tiling import Tiling
from tests.models import parity
from tests.models.clips import assert_bf16_near_fp32
from tests.models.clips import channels_first
from tests.models.clips import channels_last
from tests.models.clips import decoded
from tests.models.clips import latents
from tests.models.clips import pixels
from tests.models.clips import run

# Channels that grow and that stay, blocks that attend and that do not, several heads.
CONFIG = DCAEConfig(channels=4, block_channels=(4, 8, 8), encoder_layers=(1, 2, 1),
                    decoder_layers=(2, 1, 1), attention_levels=2, head_dim=4)
MODEL = DCAE(CONFIG)
TILED = DCAE(dataclasses.replace(CONFIG, tiling=Tiling(size=16, stride=12)))


@functools.cache
def params():
  return parity.random_params(MODEL, scale=0.3)


@functools.cache
def theirs(tiled=False):
  model = AutoencoderDC.from_config(table.FAMILY.write_config(CONFIG.__dict__))
  if tiled:
    model.enable_tiling(16, 16, 12, 12)
  return parity.load(model, table.RULES, params()).requires_grad_(False)


# SanaPipeline scales once each way.
def their_latents(model, images):
  return channels_last(model.encode(channels_first(images)).latent) * CONFIG.scaling


def their_images(model, z):
  return decoded(model, z / CONFIG.scaling)


# Few pixels make diffusers attend quadratically, many linearly; both are the same sum.
@pytest.mark.parametrize('size', [(4, 8), (16, 24)])
def test_images_equal_diffusers(size):
  images = pixels(2, *size)
  ours = run(MODEL, params(), 'encode', images)
  assert ours.shape == (2, size[0] // 4, size[1] // 4, 4) and np.abs(ours).mean() > 0.1
  parity.assert_near(ours, parity.theirs(theirs(), their_latents, images))
  parity.assert_near(run(MODEL, params(), 'decode', ours),
                     parity.theirs(theirs(), their_images, ours))


def test_tiles_equal_diffusers():
  """Two rows of three tiles; decoding, two of one."""
  images = pixels(1, 20, 28)
  expected = parity.theirs(theirs(tiled=True), their_latents, images)
  whole = parity.theirs(theirs(), their_latents, images)
  assert np.abs(whole.exact - expected.exact).max() > 1e-3  # the tiles matter
  parity.assert_near(run(TILED, params(), 'encode', images), expected)
  z = latents(1, 5, 3, 4)
  parity.assert_near(run(TILED, params(), 'decode', z),
                     parity.theirs(theirs(tiled=True), their_images, z))


def test_bf16_stays_near_fp32():
  assert_bf16_near_fp32(MODEL, params(), pixels(2, 16, 24))


def test_published_sizes():
  full = registry.build(registry.section('dc_ae'), np.float32)
  assert full.config.factor == 32
  parity.assert_axes_named(full)


@pytest.mark.parametrize('change, field', [
    (dict(decoder_block_types=['ResBlock'] * 3), 'decoder_block_types'),
    (dict(encoder_qkv_multiscales=[[], [5], [3]]), 'encoder_qkv_multiscales'),
    (dict(decoder_block_out_channels=[4, 8, 16]), 'decoder_block_out_channels'),
    (dict(downsample_block_type='pixel_unshuffle'), 'downsample_block_type'),
])
def test_other_arrangements_of_their_class_are_refused(change, field):
  with pytest.raises(UserError, match=field):
    table.FAMILY.read_config(table.FAMILY.write_config(CONFIG.__dict__) | change, (), 'config')


@pytest.mark.parametrize('field, fields', [
    ('encoder_layers', dict(encoder_layers=(0, 2, 2, 3, 3, 3))),
    ('decoder_layers', dict(decoder_layers=(3, 3, 3))),
    ('block_channels', dict(block_channels=(128, 256, 512, 512, 1024, 1536))),
    ('channels', dict(channels=33)),
    ('head_dim', dict(head_dim=48)),
    ('tiling.stride', dict(tiling=Tiling(size=512, stride=456))),
])
def test_sizes_that_do_not_fit_are_named(field, fields):
  with pytest.raises(UserError, match=f'autoencoder.{field}'):
    DCAEConfig(**fields)
