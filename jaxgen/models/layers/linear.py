"""The one dense projection of the project, with a logical name for every kernel axis."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros_init()


def normal(stddev: float) -> Initializer:
  """Gaussian initialiser that ignores the fan."""
  return nn.initializers.normal(stddev)


class Linear(nn.Module):
  """``y[..., *features] = x[..., *inputs] @ kernel[*inputs, *features] + bias[*features]``.

  Attributes:
    features: output dims; ``(N, H)`` splits into heads at once.
    names: logical axis of each kernel dim, inputs first.
    inputs: how many trailing dims of ``x`` are contracted; 2 for ``(N, H) -> D``.
    use_bias: adds a bias, zero at the start.
    kernel_init: sees the kernel as a matrix, so that fans are right whatever the dims.
    dtype: of the computation and the result; parameters are created fp32.
  """

  features: tuple[int, ...]
  names: tuple[str, ...]
  inputs: int = 1
  use_bias: bool = True
  kernel_init: Initializer = xavier
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    contracted = x.shape[x.ndim - self.inputs:]
    shape = contracted + self.features
    assert len(self.names) == len(shape), (self.names, shape)
    matrix = (math.prod(contracted), math.prod(self.features))

    def kernel_init(key, shape, dtype):
      return self.kernel_init(key, matrix, dtype).reshape(shape)

    kernel = self.param(
        'kernel', nn.with_logical_partitioning(kernel_init, self.names), shape, jnp.float32)
    # One plain matrix product: XLA's fast paths look for exactly that.
    y = x.astype(self.dtype).reshape(*x.shape[:-self.inputs], matrix[0])
    y = y @ kernel.astype(self.dtype).reshape(matrix)
    if self.use_bias:
      bias = self.param(
          'bias', nn.with_logical_partitioning(zeros, self.names[self.inputs:]),
          self.features, jnp.float32)
      y = y + bias.astype(self.dtype).reshape(-1)
    return y.reshape(*x.shape[:-self.inputs], *self.features)
