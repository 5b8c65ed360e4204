"""The deep-compression autoencoder of SANA: 32 x 32 pixels to one latent pixel.

Every change of resolution is a residual to the plain rearrangement of pixels into channels; the
coarse levels attend linearly. Equals diffusers' ``AutoencoderDC`` as SANA has it
(tests/models/test_dc_ae.py). Arrays are channels-last.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.base import Autoencoder
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.autoencoders.patchify import unpatchify
from jaxgen.models.autoencoders.tiling import Tiling
from jaxgen.models.layers.convolution import Conv
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear_attention import attend_linearly
from jaxgen.models.layers.norms import RMSNorm

NEIGHBOURHOOD = 5  # pixels along the window whose mixture is attended to besides the pixel itself
MLP_RATIO = 4

Norm = functools.partial(RMSNorm, 1e-5, use_bias=True)


@dataclasses.dataclass(frozen=True)
class DCAEConfig:
  """Sizes of the autoencoder; the defaults are those of SANA's f32c32.

  Attributes:
    channels: c, channels of a latent pixel.
    block_channels: channels at each resolution, finest first; each but the last halves it.
    encoder_layers: blocks at each resolution of the encoder.
    decoder_layers: blocks at each resolution of the decoder, finest first too.
    attention_levels: at how many of the coarsest resolutions blocks attend.
    head_dim: H.
    scaling: latents are ``z * scaling``.
    tiling: how large images are cut.
  """

  channels: int = 32
  block_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
  encoder_layers: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
  decoder_layers: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
  attention_levels: int = 3
  head_dim: int = 32
  scaling: float = 0.41407
  tiling: Tiling = Tiling()

  def __post_init__(self):
    where, sizes = 'config.model.autoencoder', self.block_channels
    for field in ('encoder_layers', 'decoder_layers'):
      layers = dataclasses.asdict(self)[field]
      if len(layers) != len(sizes) or min(layers) < 1:
        raise user_error(f'{where}.{field}', layers, f'must be positive, one for each of {sizes}')
    if any(4 * fine % coarse or 4 * coarse % fine for fine, coarse in zip(sizes, sizes[1:])):
      raise user_error(f'{where}.block_channels', sizes,
                       'must change by factors between resolutions')
    if sizes[-1] % self.channels:
      raise user_error(f'{where}.channels', self.channels, f'must divide {sizes[-1]}')
    if not 0 <= self.attention_levels <= len(sizes) or any(
        self.attends(level) and size % self.head_dim for level, size in enumerate(sizes)):
      raise user_error(f'{where}.head_dim', self.head_dim,
                       f'must divide the last {self.attention_levels} of {sizes}')
    if not self.scaling:
      raise user_error(f'{where}.scaling', self.scaling, 'must not be 0')
    self.tiling.check(f'{where}.tiling', self.factor)

  def attends(self, level: int) -> bool:
    """Whether the blocks of a resolution attend; 0 is the finest."""
    return level >= len(self.block_channels) - self.attention_levels

  @property
  def factor(self) -> int:
    """Image pixels along one side of a latent pixel."""
    return 2 ** (len(self.block_channels) - 1)

  @property
  def temporal_factor(self) -> int:
    """Frames of a latent frame: images only."""
    return 1

  @property
  def shift(self) -> float:
    """Latents are not shifted."""
    return 0.0


class DCAE(Autoencoder):
  """Images f32[n, H, W, 3] in [-1, 1] to latents f32[n, H / factor, W / factor, c] and back.

  The encoder is not stochastic. What is decoded is not clipped to [-1, 1].
  """

  config: DCAEConfig

  def setup(self):
    self.encoder = Encoder(self.config, self.dtype)
    self.decoder = Decoder(self.config, self.dtype)

  def encode_tile(self, images: jax.Array) -> jax.Array:
    """Pixels to latents of the network."""
    return self.encoder(images)

  def decode_tile(self, latents: jax.Array) -> jax.Array:
    """Latents of the network to pixels."""
    return self.decoder(latents)


class Encoder(nn.Module):
  """Images to latents."""

  config: DCAEConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    config, dtype = self.config, self.dtype
    x = Conv(config.block_channels[0], dtype=dtype, name='conv_in')(x)
    for level, layers in enumerate(config.encoder_layers):
      for layer in range(layers):
        x = _block(config, dtype, level, f'down_{level}_{layer}')(x)
      if level + 1 < len(config.block_channels):
        x = Downsample(config.block_channels[level + 1], dtype, name=f'down_{level}_{layers}')(x)
    return Conv(config.channels, dtype=dtype, name='conv_out')(x) + _mean(x, config.channels)


class Decoder(nn.Module):
  """Latents to images."""

  config: DCAEConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    config, dtype, sizes = self.config, self.dtype, self.config.block_channels
    x = (Conv(sizes[-1], dtype=dtype, name='conv_in')(x)
         + x.repeat(sizes[-1] // config.channels, axis=-1))
    for level in reversed(range(len(sizes))):
      first = 0
      if level + 1 < len(sizes):
        x = Upsample(sizes[level], dtype, name=f'up_{level}_0')(x)
        first = 1
      for layer in range(config.decoder_layers[level]):
        x = _block(config, dtype, level, f'up_{level}_{first + layer}')(x)
    x = nn.relu(Norm(dtype=dtype, name='norm_out')(x))
    return Conv(3, dtype=dtype, name='conv_out')(x)


class Downsample(nn.Module):
  """Half the resolution: a strided convolution beside the mean over rearranged pixels."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = Conv(self.features, strides=(2, 2), dtype=self.dtype, name='conv')(x)
    return y + _mean(patchify(x, 2), self.features).reshape(y.shape)


class Upsample(nn.Module):
  """Twice the resolution: repeated pixels, convolved, beside repeated and rearranged channels."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, h, w, channels = x.shape
    y = Conv(self.features, dtype=self.dtype, name='conv')(x.repeat(2, axis=1).repeat(2, axis=2))
    wide = x.reshape(n, h * w, channels).repeat(4 * self.features // channels, axis=-1)
    return y + unpatchify(wide, (h, w), 2)


class ResidualBlock(nn.Module):
  """Convolution, SiLU, convolution, norm."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = nn.silu(Conv(x.shape[-1], dtype=self.dtype, name='conv_0')(x))
    y = Conv(x.shape[-1], use_bias=False, dtype=self.dtype, name='conv_1')(y)
    return x + Norm(dtype=self.dtype, name='norm')(y)


class AttentionBlock(nn.Module):
  """Linear attention over pixels and their neighbourhoods, then a mixing MLP."""

  head_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = LinearAttention(self.head_dim, self.dtype, name='attention')(x)
    x = x + Norm(dtype=self.dtype, name='attention_norm')(y)
    y = MixingMLP(MLP_RATIO * x.shape[-1], self.dtype, name='mlp')(x)
    return x + Norm(dtype=self.dtype, name='mlp_norm')(y)


class LinearAttention(nn.Module):
  """Heads whose queries, keys and values are those of the pixels or of their neighbourhoods."""

  head_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, h, w, channels = x.shape
    project = functools.partial(Linear, names=('conv_in', 'conv_out'), use_bias=False,
                                dtype=self.dtype)
    conv = functools.partial(Conv, 3 * channels, use_bias=False, dtype=self.dtype)
    own = project((3 * channels,), name='qkv')(x)
    around = conv((NEIGHBOURHOOD,) * 2, groups=3 * channels, name='mix')(own)
    around = conv((1, 1), groups=3 * channels // self.head_dim, name='mix_heads')(around)
    # A head's query, key and value lie side by side; the neighbourhoods' heads follow the pixels'.
    qkv = jnp.concatenate([own, around], axis=-1).reshape(n, h * w, -1, 3, self.head_dim)
    own_image = jnp.ones((n, h * w), jnp.int32)
    y = attend_linearly(*(qkv[..., part, :] for part in range(3)), own_image, 1)
    return project((channels,), name='out')(y.reshape(n, h, w, -1))


class MixingMLP(nn.Module):
  """Up, mixed with the pixels around, gated, down.

  Attributes:
    hidden: F.
    dtype: of the computation.
  """

  hidden: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    wide = 2 * self.hidden
    y = nn.silu(Linear((wide,), ('conv_in', 'conv_out'), dtype=self.dtype, name='up')(x))
    y = Conv(wide, groups=wide, dtype=self.dtype, name='mix')(y)
    y, gate = jnp.split(y, 2, axis=-1)
    return Linear((x.shape[-1],), ('conv_in', 'conv_out'), use_bias=False, dtype=self.dtype,
                  name='down')(y * nn.silu(gate))


def _block(config: DCAEConfig, dtype: jnp.dtype, level: int, name: str) -> nn.Module:
  if config.attends(level):
    return AttentionBlock(config.head_dim, dtype, name=name)
  return ResidualBlock(dtype, name=name)


def _mean(x: jax.Array, features: int) -> jax.Array:
  """Means over equal runs of channels: f[..., k features] to f[..., features]."""
  return x.reshape(*x.shape[:-1], features, -1).mean(axis=-1)
