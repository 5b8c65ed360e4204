"""The two-dimensional KL autoencoder of FLUX and SD3: 8 x 8 pixels to one latent pixel.

Equals diffusers' ``AutoencoderKL`` without quantisation convolutions
(tests/models/test_kl.py). Arrays are channels-last.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.norms import GroupNorm


@dataclasses.dataclass(frozen=True)
class KLConfig:
  """Sizes of the autoencoder; the defaults are FLUX.1's.

  Attributes:
    channels: c, channels of a latent pixel.
    block_channels: channels at each resolution, finest first; each but the last halves it.
    layers_per_block: residual blocks of a resolution in the encoder; the decoder has one more.
    norm_groups: groups of every group norm.
    scaling: latents are ``(mean - shift) * scaling``.
    shift: see ``scaling``.
  """

  channels: int = 16
  block_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_groups: int = 32
  scaling: float = 0.3611
  shift: float = 0.1159

  def __post_init__(self):
    where = 'config.model.autoencoder'
    if not self.block_channels or any(c % self.norm_groups for c in self.block_channels):
      raise user_error(f'{where}.block_channels', self.block_channels,
                       f'must be multiples of norm_groups = {self.norm_groups}')
    if not self.scaling:
      raise user_error(f'{where}.scaling', self.scaling, 'must not be 0')

  @property
  def factor(self) -> int:
    """Image pixels along one side of a latent pixel."""
    return 2 ** (len(self.block_channels) - 1)


class KLAutoencoder(nn.Module):
  """Images f32[n, H, W, 3] in [-1, 1] to latents f32[n, H / factor, W / factor, c] and back.

  Shift and scaling are applied here, once on each way, and nowhere else in the project.

  Attributes:
    config: sizes.
    dtype: of the convolutions; norms are fp32.
  """

  config: KLConfig
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.encoder = Encoder(self.config, self.dtype)
    self.decoder = Decoder(self.config, self.dtype)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Encodes and decodes."""
    return self.decode(self.encode(images))

  def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance of the posterior, as the network gives them: f32[n, h, w, c] each."""
    assert not images.shape[1] % self.config.factor, images.shape
    assert not images.shape[2] % self.config.factor, images.shape
    mean, log_variance = jnp.split(self.encoder(images).astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)

  def encode(self, images: jax.Array) -> jax.Array:
    """The mean of the posterior, shifted and scaled: what denoisers see."""
    mean, _ = self.moments(images)
    return (mean - self.config.shift) * self.config.scaling

  def decode(self, latents: jax.Array) -> jax.Array:
    """Images of shifted and scaled latents; not clipped to [-1, 1]."""
    latents = latents.astype(jnp.float32) / self.config.scaling + self.config.shift
    return self.decoder(latents).astype(jnp.float32)


class Encoder(nn.Module):
  """Images to 2c channels, means before log variances."""

  config: KLConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    config, dtype = self.config, self.dtype
    x = Conv(config.block_channels[0], dtype=dtype, name='conv_in')(x)
    for level, channels in enumerate(config.block_channels):
      if level > 0:
        # Padding on the far side only, as the original has it.
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        x = Conv(x.shape[-1], stride=2, padding=0, dtype=dtype, name=f'downsample_{level - 1}')(x)
      for layer in range(config.layers_per_block):
        x = ResidualBlock(channels, config, dtype, name=f'down_{level}_{layer}')(x)
    x = Middle(config, dtype, name='middle')(x)
    x = nn.silu(GroupNorm(config.norm_groups, dtype=dtype, name='norm_out')(x))
    return Conv(2 * config.channels, dtype=dtype, name='conv_out')(x)


class Decoder(nn.Module):
  """Latents of c channels to images; levels count from the coarsest."""

  config: KLConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    config, dtype = self.config, self.dtype
    x = Conv(config.block_channels[-1], dtype=dtype, name='conv_in')(x)
    x = Middle(config, dtype, name='middle')(x)
    for level, channels in enumerate(reversed(config.block_channels)):
      if level > 0:
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        x = Conv(x.shape[-1], dtype=dtype, name=f'upsample_{level - 1}')(x)
      for layer in range(config.layers_per_block + 1):
        x = ResidualBlock(channels, config, dtype, name=f'up_{level}_{layer}')(x)
    x = nn.silu(GroupNorm(config.norm_groups, dtype=dtype, name='norm_out')(x))
    return Conv(3, dtype=dtype, name='conv_out')(x)


class Middle(nn.Module):
  """Residual block, attention over all pixels, residual block."""

  config: KLConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    x = ResidualBlock(channels, self.config, self.dtype, name='block_0')(x)
    x = PixelAttention(self.config, self.dtype, name='attention')(x)
    return ResidualBlock(channels, self.config, self.dtype, name='block_1')(x)


class ResidualBlock(nn.Module):
  """Two times norm, SiLU, convolution; a 1 x 1 shortcut where the channels change."""

  channels: int
  config: KLConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    groups, dtype = self.config.norm_groups, self.dtype
    y = nn.silu(GroupNorm(groups, dtype=dtype, name='norm_0')(x))
    y = Conv(self.channels, dtype=dtype, name='conv_0')(y)
    y = nn.silu(GroupNorm(groups, dtype=dtype, name='norm_1')(y))
    y = Conv(self.channels, dtype=dtype, name='conv_1')(y)
    if x.shape[-1] != self.channels:
      x = Conv(self.channels, side=1, padding=0, dtype=dtype, name='shortcut')(x)
    return x + y


class PixelAttention(nn.Module):
  """One attention head over the pixels of an image, as a residual."""

  config: KLConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, h, w, channels = x.shape
    y = GroupNorm(self.config.norm_groups, dtype=self.dtype, name='norm')(x).reshape(n, h * w, -1)

    def project(name, value):
      return Linear((channels,), ('conv_in', 'conv_out'), dtype=self.dtype, name=name)(value)

    q, k, v = (project(name, y)[:, :, None] for name in 'qkv')
    attended = attend(q, k, v, q_segments=None, kv_segments=None)
    return x + project('out', attended[:, :, 0]).reshape(x.shape)


class Conv(nn.Module):
  """Square convolution of f[n, h, w, c] with a bias.

  Attributes:
    features: output channels.
    side: of the kernel.
    stride: in both directions.
    padding: zeros on every side.
    dtype: of the computation.
  """

  features: int
  side: int = 3
  stride: int = 1
  padding: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    names = ('patch', 'patch', 'conv_in', 'conv_out')
    shape = (self.side, self.side, x.shape[-1], self.features)
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
    kernel = self.param('kernel', nn.with_logical_partitioning(init, names), shape, jnp.float32)
    bias = self.param('bias', nn.with_logical_partitioning(zeros, names[-1:]), shape[-1:],
                      jnp.float32)
    y = jax.lax.conv_general_dilated(
        x.astype(self.dtype), kernel.astype(self.dtype), (self.stride, self.stride),
        ((self.padding, self.padding),) * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return y + bias.astype(self.dtype)
