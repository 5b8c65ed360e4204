"""Convolutions of images and videos, channels last; the causal ones see no later frames."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.layers.linear import zeros


class Conv(nn.Module):
  """Convolution of f[n, *space, c].

  Attributes:
    features: output channels.
    window: size of the kernel along each dimension of space.
    strides: along each dimension; empty = 1.
    padding: zeros (before, after) each dimension; empty = half the window on both sides.
    groups: equal shares of the channels that do not see each other.
    use_bias: adds a bias, zero at the start.
    dtype: of the computation and the result; parameters are created fp32.
  """

  features: int
  window: tuple[int, ...] = (3, 3)
  strides: tuple[int, ...] = ()
  padding: tuple[tuple[int, int], ...] = ()
  groups: int = 1
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    assert x.ndim == len(self.window) + 2 and x.shape[-1] % self.groups == 0, x.shape
    names = ('patch',) * len(self.window) + ('conv_in', 'conv_out')
    shape = (*self.window, x.shape[-1] // self.groups, self.features)
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
    kernel = self.param('kernel', nn.with_logical_partitioning(init, names), shape, jnp.float32)
    space = 'DHW'[-len(self.window):]
    y = jax.lax.conv_general_dilated(
        x.astype(self.dtype), kernel.astype(self.dtype),
        self.strides or (1,) * len(self.window),
        self.padding or [(size // 2, size // 2) for size in self.window],
        dimension_numbers=(f'N{space}C', f'{space}IO', f'N{space}C'),
        feature_group_count=self.groups)
    if self.use_bias:
      bias = self.param('bias', nn.with_logical_partitioning(zeros, names[-1:]), shape[-1:],
                        jnp.float32)
      y = y + bias.astype(self.dtype)
    return y


class CausalConv(Conv):
  """Convolution of f[n, t, h, w, c] that repeats the border: the first frame, the outer pixels."""

  window: tuple[int, ...] = (3, 3, 3)
  padding: tuple[tuple[int, int], ...] = ((0, 0),) * 3

  def __call__(self, x: jax.Array) -> jax.Array:
    frames, rows, columns = self.window
    border = ((0, 0), (frames - 1, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0))
    return super().__call__(jnp.pad(x, border, mode='edge'))


class History:
  """What the layers of a network remember of the frames before the chunk at hand.

  A video passes a causal network in chunks. Every layer that looks back takes the last frames of
  the chunk before from ``before`` and leaves its own in ``after``.

  Attributes:
    before: f[n, k, h, w, c] of each layer, by its path; empty at the first chunk.
    after: the same once the chunk has passed: ``before`` of the next.
  """

  def __init__(self, before: Mapping[str, jax.Array] | None = None):
    self.before = dict(before or {})
    self.after: dict[str, jax.Array] = {}

  @property
  def first(self) -> bool:
    """Whether nothing came before this chunk."""
    return not self.before

  def prepend(self, layer: nn.Module, x: jax.Array, frames: int) -> jax.Array:
    """``x`` f[n, t, h, w, c] behind the last ``frames`` before it; zeros before the first."""
    path = '/'.join(layer.path)
    if self.first:
      joined = jnp.pad(x, ((0, 0), (frames, 0), (0, 0), (0, 0), (0, 0)))
    else:
      joined = jnp.concatenate([self.before[path], x], axis=1)
    self.after[path] = joined[:, joined.shape[1] - frames:]
    return joined


class StreamedConv(Conv):
  """Convolution of the chunks f[n, t, h, w, c] of a video: zeros surround it, also in time."""

  window: tuple[int, ...] = (3, 3, 3)
  padding: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (1, 1))

  def __call__(self, x: jax.Array, history: History) -> jax.Array:
    return super().__call__(history.prepend(self, x, self.window[0] - 1))
