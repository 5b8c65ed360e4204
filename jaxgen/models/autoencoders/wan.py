"""Wan 2.1's causal autoencoder, also Qwen-Image's: 8 x 8 pixels of 4 frames to one latent pixel.

A video passes in chunks: its first frame alone, then four frames (one latent frame) at a time.
Every layer remembers what it needs of the frames before, so the activations are those of one
chunk whatever the length, and the result is that of the whole video at once. Equals diffusers'
``AutoencoderKLWan`` and ``AutoencoderKLQwenImage`` (tests/models/test_wan_vae.py).
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.base import GaussianAutoencoder
from jaxgen.models.autoencoders.blocks import Decoder
from jaxgen.models.autoencoders.blocks import Encoder
from jaxgen.models.autoencoders.blocks import Parts
from jaxgen.models.autoencoders.blocks import PixelAttention
from jaxgen.models.autoencoders.tiling import Tiling
from jaxgen.models.layers.convolution import Conv
from jaxgen.models.layers.convolution import History
from jaxgen.models.layers.convolution import StreamedConv
from jaxgen.models.layers.norms import RMSNorm

LAYERS = 2  # residual blocks of a resolution in the encoder; the decoder has one more
EPSILON = 1e-24  # of the norms: theirs divide by the length itself
MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


@dataclasses.dataclass(frozen=True)
class WanVAEConfig:
  """Sizes of the autoencoder; the defaults are the published ones.

  Attributes:
    block_channels: channels at each resolution, finest first; each but the last halves it.
    temporal: for each halving, whether it halves the number of frames too.
    mean: of each latent channel; latents are ``(z - mean) / std``.
    std: see ``mean``.
    tiling: how large images are cut; time needs no tiles.
  """

  block_channels: tuple[int, ...] = (96, 192, 384, 384)
  temporal: tuple[bool, ...] = (False, True, True)
  mean: tuple[float, ...] = MEAN
  std: tuple[float, ...] = STD
  tiling: Tiling = Tiling()

  def __post_init__(self):
    where = 'config.model.autoencoder'
    if len(self.temporal) != len(self.block_channels) - 1:
      raise user_error(f'{where}.temporal', self.temporal,
                       f'must have one entry for each halving of {self.block_channels}')
    if any(channels % 2 for channels in self.block_channels):
      raise user_error(f'{where}.block_channels', self.block_channels, 'must be even')
    if len(self.mean) != len(self.std) or not all(std > 0 for std in self.std):
      raise user_error(f'{where}.std', self.std,
                       f'must be positive, and as many as mean: {len(self.mean)}')
    if self.tiling.frames:
      raise user_error(f'{where}.tiling.frames', self.tiling.frames,
                       'must be 0: this autoencoder takes a video in chunks')
    self.tiling.check(f'{where}.tiling', self.factor)

  @property
  def channels(self) -> int:
    """Channels of a latent pixel."""
    return len(self.mean)

  @property
  def factor(self) -> int:
    """Image pixels along one side of a latent pixel."""
    return 2 ** len(self.temporal)

  @property
  def temporal_factor(self) -> int:
    """Frames of a latent frame, but for the first, which is a frame of its own."""
    return 2 ** sum(self.temporal)

  @property
  def shift(self) -> np.ndarray:
    """f32[c]: latents are ``(z - shift) * scaling``."""
    return np.array(self.mean, np.float32)

  @property
  def scaling(self) -> np.ndarray:
    """f32[c]: see ``shift``."""
    return 1 / np.array(self.std, np.float32)


class WanVAE(GaussianAutoencoder):
  """Images f32[n, H, W, 3] or videos f32[n, T, H, W, 3] to latents and back.

  An image becomes f32[n, H / factor, W / factor, c], one latent frame; a video of T frames
  f32[n, (T - 1) / temporal_factor + 1, H / factor, W / factor, c]. What is decoded is clipped to
  [-1, 1], as the original has it.
  """

  config: WanVAEConfig

  def setup(self):
    """Makes encoder and decoder of this family's parts."""
    config, dtype = self.config, self.dtype
    norm = functools.partial(RMSNorm, EPSILON, dtype=dtype)
    parts = Parts(
        functools.partial(StreamedConv, dtype=dtype), norm,
        functools.partial(FrameAttention, norm, dtype=dtype),
        resample=lambda step, channels, name: Upsample(
            channels // 2, config.temporal[-1 - step], dtype, name=name), dtype=dtype)
    down = dataclasses.replace(parts, resample=lambda step, channels, name: Downsample(
        channels, config.temporal[step], dtype, name=name))
    self.encoder = Encoder(down, config.block_channels, LAYERS, 2 * config.channels)
    self.decoder = Decoder(parts, config.block_channels, LAYERS + 1)
    self.moments_out = Conv(2 * config.channels, (1, 1, 1), dtype=dtype)
    self.latents_in = Conv(config.channels, (1, 1, 1), dtype=dtype)

  def encode_tile(self, images: jax.Array) -> jax.Array:
    """Pixels to moments."""
    if images.ndim == 4:
      return self.encode_tile(images[:, None])[:, 0]
    return self.moments_out(_stream(
        self, lambda module, *chunk: module.encoder(*chunk), images, self.config.temporal_factor))

  def decode_tile(self, latents: jax.Array) -> jax.Array:
    """Latents of the network to pixels."""
    if latents.ndim == 4:
      return self.decode_tile(latents[:, None])[:, 0]
    return _stream(self, lambda module, *chunk: module.decoder(*chunk), self.latents_in(latents), 1)

  def decode(self, latents: jax.Array) -> jax.Array:
    """Images or videos of normalised latents, clipped to [-1, 1]."""
    return jnp.clip(super().decode(latents), -1.0, 1.0)


class Downsample(nn.Module):
  """Halves height and width, and the frames behind the first where the step is temporal.

  Attributes:
    features: output channels.
    temporal: whether the frames are halved.
    dtype: of the computation.
  """

  features: int
  temporal: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, history: History) -> jax.Array:
    # Padding on the far side only, as the original has it.
    x = _each_frame(Conv(self.features, strides=(2, 2), padding=((0, 1), (0, 1)),
                         dtype=self.dtype, name='conv'), x)
    if not self.temporal:
      return x
    joined = history.prepend(self, x, 1)
    first, joined = (x[:, :1], joined[:, 1:]) if history.first else (x[:, :0], joined)
    pairs = Conv(self.features, (3, 1, 1), (2, 1, 1), ((0, 0),) * 3, dtype=self.dtype,
                 name='time_conv')(joined)
    return jnp.concatenate([first, pairs], axis=1)


class Upsample(nn.Module):
  """Doubles height and width, and the frames behind the first where the step is temporal.

  Attributes:
    features: output channels.
    temporal: whether the frames are doubled.
    dtype: of the computation.
  """

  features: int
  temporal: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, history: History) -> jax.Array:
    if self.temporal:
      # The first frame stands for itself: it is neither doubled nor remembered.
      first, rest = jnp.split(x, [1 if history.first else 0], axis=1)
      pairs = StreamedConv(2 * x.shape[-1], (3, 1, 1), padding=((0, 0),) * 3, dtype=self.dtype,
                           name='time_conv')(rest, history)
      n, t, h, w, _ = pairs.shape
      pairs = pairs.reshape(n, t, h, w, 2, x.shape[-1]).transpose(0, 1, 4, 2, 3, 5)
      x = jnp.concatenate([first, pairs.reshape(n, 2 * t, h, w, x.shape[-1])], axis=1)
    x = x.repeat(2, axis=2).repeat(2, axis=3)
    return _each_frame(Conv(self.features, dtype=self.dtype, name='conv'), x)


class FrameAttention(PixelAttention):
  """Attention over the pixels of each frame by itself."""

  def __call__(self, x: jax.Array) -> jax.Array:
    return _each_frame(super().__call__, x)


def _each_frame(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """Maps the frames of f[n, t, h, w, c] as images."""
  n, t = x.shape[:2]
  y = function(x.reshape(n * t, *x.shape[2:]))
  return y.reshape(n, t, *y.shape[1:])


def _stream(module: nn.Module, network: Callable[..., jax.Array], x: jax.Array, frames: int
            ) -> jax.Array:
  """``network(module, chunk, history)`` over the first frame, then over ``frames`` at a time."""
  history = History()
  first = network(module, x[:, :1], history)
  if x.shape[1] == 1:
    return first

  def step(module, before, chunk):
    history = History(before)
    y = network(module, chunk, history)
    return history.after, y

  n, t = x.shape[:2]
  chunks = x[:, 1:].reshape(n, (t - 1) // frames, frames, *x.shape[2:])
  _, rest = nn.scan(step, variable_broadcast='params', split_rngs={'params': False}, in_axes=1,
                    out_axes=1)(module, history.after, chunks)
  return jnp.concatenate([first, rest.reshape(n, -1, *rest.shape[3:])], axis=1)
