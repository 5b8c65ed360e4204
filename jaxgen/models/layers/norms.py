"""Normalisations with fp32 statistics.

The arithmetic is rematerialised: recomputing it costs less than storing its intermediates.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@recomputed
def standardise(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """``(x - mean(x)) / std(x)`` over the last axis, f32[...]: layer norm without parameters."""
  x = x.astype(jnp.float32)
  centred = x - jnp.mean(x, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  return centred * jax.lax.rsqrt(variance + epsilon)


@recomputed
def rms_normalise(x: jax.Array, scale: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """``x / rms(x) * scale`` over the last axis, f32[...]."""
  x = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
  return x * inverse * scale


class RMSNorm(nn.Module):
  """``x / rms(x) * scale``, plus a bias where asked for.

  Attributes:
    epsilon: added to the mean square.
    axis: logical name of the normalised axis.
    dtype: of the result.
    use_bias: adds a bias, zero at the start.
  """

  epsilon: float = 1e-6
  axis: str = 'norm'
  dtype: jnp.dtype = jnp.float32
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    names, shape = (self.axis,), (x.shape[-1],)
    ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
    scale = self.param('scale', nn.with_logical_partitioning(ones, names), shape, jnp.float32)
    y = rms_normalise(x, scale, self.epsilon)
    if self.use_bias:
      y = y + self.param('bias', nn.with_logical_partitioning(zeros, names), shape, jnp.float32)
    return y.astype(self.dtype)


class LayerNorm(nn.Module):
  """``standardise(x) * scale + bias``.

  Attributes:
    epsilon: added to the variance.
    axis: logical name of the normalised axis.
    dtype: of the result.
  """

  epsilon: float = 1e-6
  axis: str = 'norm'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    names, shape = (self.axis,), (x.shape[-1],)
    ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
    scale = self.param('scale', nn.with_logical_partitioning(ones, names), shape, jnp.float32)
    bias = self.param('bias', nn.with_logical_partitioning(zeros, names), shape, jnp.float32)
    return (standardise(x, self.epsilon) * scale + bias).astype(self.dtype)


class GroupNorm(nn.Module):
  """Standardises each image or video over its pixels and the channels of a group, then scales and
  shifts.

  Attributes:
    groups: how many groups of neighbouring channels.
    epsilon: added to the variance.
    dtype: of the result.
  """

  groups: int = 32
  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps f[n, *space, c] to the same."""
    channels = x.shape[-1]
    ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
    scale = self.param('scale', nn.with_logical_partitioning(ones, ('norm',)), (channels,))
    bias = self.param('bias', nn.with_logical_partitioning(zeros, ('norm',)), (channels,))
    grouped = x.astype(jnp.float32).reshape(
        x.shape[0], -1, self.groups, channels // self.groups)
    centred = grouped - jnp.mean(grouped, axis=(1, 3), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(1, 3), keepdims=True)
    normed = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
    return (normed * scale + bias).astype(self.dtype)
