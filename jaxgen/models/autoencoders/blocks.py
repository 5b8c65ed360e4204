"""The convolutional encoder and decoder that the KL autoencoders of images and videos share.

They differ in the pieces that ``Parts`` names: how they convolve, normalise, attend and change the
resolution. What causal networks remember between chunks travels through as ``context``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.convolution import Conv
from jaxgen.models.layers.linear import Linear


@dataclasses.dataclass(frozen=True)
class Parts:
  """What makes the pieces of one family of autoencoders.

  Attributes:
    conv: ``conv(features, name=)`` gives a module with a window of 3, called with ``context``.
    norm: ``norm(name=)``.
    attention: ``attention(name=)``, of the middle.
    resample: ``resample(step, channels, name=)`` gives the module that halves (in an encoder) or
      doubles (in a decoder) the resolution the ``step``-th time, called with ``context``.
    dtype: of the shortcuts.
  """

  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  attention: Callable[..., nn.Module]
  resample: Callable[..., nn.Module]
  dtype: jnp.dtype


class Encoder(nn.Module):
  """f[n, *space, 3] to f[n, *smaller, features].

  Attributes:
    parts: the pieces.
    block_channels: channels at each resolution, finest first.
    layers: residual blocks of a resolution.
    features: output channels.
  """

  parts: Parts
  block_channels: tuple[int, ...]
  layers: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array, *context: Any) -> jax.Array:
    parts = self.parts
    x = parts.conv(self.block_channels[0], name='conv_in')(x, *context)
    for level, channels in enumerate(self.block_channels):
      if level > 0:
        x = parts.resample(level - 1, x.shape[-1], name=f'downsample_{level - 1}')(x, *context)
      for layer in range(self.layers):
        x = ResidualBlock(parts, channels, name=f'down_{level}_{layer}')(x, *context)
    x = Middle(parts, name='middle')(x, *context)
    x = nn.silu(parts.norm(name='norm_out')(x))
    return parts.conv(self.features, name='conv_out')(x, *context)


class Decoder(nn.Module):
  """f[n, *space, c] to f[n, *larger, 3]; levels count from the coarsest.

  Attributes:
    parts: the pieces.
    block_channels: channels at each resolution, finest first.
    layers: residual blocks of a resolution.
  """

  parts: Parts
  block_channels: tuple[int, ...]
  layers: int

  @nn.compact
  def __call__(self, x: jax.Array, *context: Any) -> jax.Array:
    parts = self.parts
    x = parts.conv(self.block_channels[-1], name='conv_in')(x, *context)
    x = Middle(parts, name='middle')(x, *context)
    for level, channels in enumerate(reversed(self.block_channels)):
      if level > 0:
        x = parts.resample(level - 1, x.shape[-1], name=f'upsample_{level - 1}')(x, *context)
      for layer in range(self.layers):
        x = ResidualBlock(parts, channels, name=f'up_{level}_{layer}')(x, *context)
    x = nn.silu(parts.norm(name='norm_out')(x))
    return parts.conv(3, name='conv_out')(x, *context)


class Middle(nn.Module):
  """Residual block, attention, residual block."""

  parts: Parts

  @nn.compact
  def __call__(self, x: jax.Array, *context: Any) -> jax.Array:
    x = ResidualBlock(self.parts, x.shape[-1], name='block_0')(x, *context)
    x = self.parts.attention(name='attention')(x)
    return ResidualBlock(self.parts, x.shape[-1], name='block_1')(x, *context)


class ResidualBlock(nn.Module):
  """Two times norm, SiLU, convolution; a shortcut one pixel wide where the channels change."""

  parts: Parts
  channels: int

  @nn.compact
  def __call__(self, x: jax.Array, *context: Any) -> jax.Array:
    parts = self.parts
    y = nn.silu(parts.norm(name='norm_0')(x))
    y = parts.conv(self.channels, name='conv_0')(y, *context)
    y = nn.silu(parts.norm(name='norm_1')(y))
    y = parts.conv(self.channels, name='conv_1')(y, *context)
    if x.shape[-1] != self.channels:
      x = Conv(self.channels, (1,) * (x.ndim - 2), dtype=parts.dtype, name='shortcut')(x)
    return x + y


class PixelAttention(nn.Module):
  """One attention head over the pixels of an image, as a residual.

  The pixels of a video f[n, t, h, w, c] see those of their own frame and of the frames before it.

  Attributes:
    norm: ``norm(name=)``.
    dtype: of the computation.
  """

  norm: Callable[..., nn.Module]
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    y = self.norm(name='norm')(x).reshape(x.shape[0], -1, channels)

    def project(name, value):
      return Linear((channels,), ('conv_in', 'conv_out'), dtype=self.dtype, name=name)(value)

    q, k, v = (project(name, y)[:, :, None] for name in 'qkv')
    frames = _frame_numbers(x)
    attended = attend(q, k, v, q_segments=None, kv_segments=None, q_positions=frames,
                      kv_positions=frames)
    return x + project('out', attended[:, :, 0]).reshape(x.shape)


def _frame_numbers(x: jax.Array) -> jax.Array | None:
  """i32[n, t h w], the frame of each pixel of a video; None where there is one frame only."""
  if x.ndim < 5 or x.shape[1] == 1:
    return None
  n, t, h, w, _ = x.shape
  return jnp.broadcast_to(jnp.repeat(jnp.arange(t), h * w), (n, t * h * w))
