"""HunyuanVideo's causal autoencoder: 8 x 8 pixels of 4 frames to one latent pixel.

The first frame stands for itself, so an image is a video of one frame and becomes one latent
frame (L002). Equals diffusers' ``AutoencoderKLHunyuanVideo``
(tests/models/test_hunyuan_video_vae.py).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.base import GaussianAutoencoder
from jaxgen.models.autoencoders.blocks import Decoder
from jaxgen.models.autoencoders.blocks import Encoder
from jaxgen.models.autoencoders.blocks import Parts
from jaxgen.models.autoencoders.blocks import PixelAttention
from jaxgen.models.autoencoders.kl import check_channels
from jaxgen.models.autoencoders.tiling import Tiling
from jaxgen.models.layers.convolution import CausalConv
from jaxgen.models.layers.convolution import Conv
from jaxgen.models.layers.norms import GroupNorm

TEMPORAL_STEPS = 2  # how often the number of frames is halved


@dataclasses.dataclass(frozen=True)
class HunyuanVideoVAEConfig:
  """Sizes of the autoencoder; the defaults are the published ones.

  Attributes:
    channels: c, channels of a latent pixel.
    block_channels: channels at each resolution, finest first; each but the last halves it.
    layers_per_block: residual blocks of a resolution in the encoder; the decoder has one more.
    norm_groups: groups of every group norm.
    scaling: latents are ``mean * scaling``.
    tiling: how large videos are cut; the norms see a tile at a time, so its size shows.
  """

  channels: int = 16
  block_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_groups: int = 32
  scaling: float = 0.476986
  tiling: Tiling = Tiling(frames=16, frame_stride=12)

  def __post_init__(self):
    where = 'config.model.autoencoder'
    check_channels(self.block_channels, self.norm_groups)
    if len(self.block_channels) <= TEMPORAL_STEPS:
      raise user_error(f'{where}.block_channels', self.block_channels,
                       f'must be at least {TEMPORAL_STEPS + 1} resolutions')
    if not self.scaling:
      raise user_error(f'{where}.scaling', self.scaling, 'must not be 0')
    self.tiling.check(f'{where}.tiling', self.factor, self.temporal_factor)

  @property
  def factor(self) -> int:
    """Image pixels along one side of a latent pixel."""
    return 2 ** (len(self.block_channels) - 1)

  @property
  def temporal_factor(self) -> int:
    """Frames of a latent frame, but for the first, which is a frame of its own."""
    return 2**TEMPORAL_STEPS

  @property
  def shift(self) -> float:
    """Latents are not shifted."""
    return 0.0


class HunyuanVideoVAE(GaussianAutoencoder):
  """Images f32[n, H, W, 3] or videos f32[n, T, H, W, 3] to latents and back.

  An image becomes f32[n, H / factor, W / factor, c], one latent frame; a video of T frames
  f32[n, (T - 1) / temporal_factor + 1, H / factor, W / factor, c]. What is decoded is not clipped.
  """

  config: HunyuanVideoVAEConfig

  def setup(self):
    """Makes encoder and decoder of this family's parts."""
    config, dtype = self.config, self.dtype
    steps = len(config.block_channels) - 1
    conv = functools.partial(CausalConv, dtype=dtype)
    norm = functools.partial(GroupNorm, config.norm_groups, dtype=dtype)

    # Both halves leave the frames alone in their first steps, so they are not mirror images.
    def factors(step):
      return (1 if step < steps - TEMPORAL_STEPS else 2, 2, 2)

    parts = Parts(
        conv, norm, functools.partial(PixelAttention, norm, dtype=dtype),
        resample=lambda step, channels, name: Upsample(
            channels, factors=factors(step), dtype=dtype, name=name), dtype=dtype)
    down = dataclasses.replace(
        parts, resample=lambda step, channels, name: conv(
            channels, strides=factors(step), name=name))
    self.encoder = Encoder(down, config.block_channels, config.layers_per_block,
                           2 * config.channels)
    self.decoder = Decoder(parts, config.block_channels, config.layers_per_block + 1)
    self.moments_out = Conv(2 * config.channels, (1, 1, 1), dtype=dtype)
    self.latents_in = Conv(config.channels, (1, 1, 1), dtype=dtype)

  def encode_tile(self, images: jax.Array) -> jax.Array:
    """Pixels to moments."""
    if images.ndim == 4:
      return self.encode_tile(images[:, None])[:, 0]
    return self.moments_out(self.encoder(images))

  def decode_tile(self, latents: jax.Array) -> jax.Array:
    """Latents of the network to pixels."""
    if latents.ndim == 4:
      return self.decode_tile(latents[:, None])[:, 0]
    return self.decoder(self.latents_in(latents))


class Upsample(CausalConv):
  """Repeats every pixel, and every frame but the first, then convolves.

  Attributes:
    factors: how often in time, height and width.
  """

  factors: tuple[int, int, int] = (1, 2, 2)

  def __call__(self, x: jax.Array) -> jax.Array:
    frames, rows, columns = self.factors
    x = jnp.concatenate([x[:, :1], x[:, 1:].repeat(frames, axis=1)], axis=1)
    return super().__call__(x.repeat(rows, axis=2).repeat(columns, axis=3))
