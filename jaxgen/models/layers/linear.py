"""The one dense projection of the project, with a logical name for every kernel axis."""

import functools
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

    def kernel_init(key, shape, dtype):
      matrix = (math.prod(contracted), math.prod(self.features))
      return self.kernel_init(key, matrix, dtype).reshape(shape)

    kernel = self.param(
        'kernel', nn.with_logical_partitioning(kernel_init, self.names), shape, jnp.float32)
    y = matrix_product(x.astype(self.dtype), kernel, self.inputs)
    if self.use_bias:
      bias = self.param(
          'bias', nn.with_logical_partitioning(zeros, self.names[self.inputs:]),
          self.features, jnp.float32)
      y = y + bias.astype(self.dtype)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matrix_product(x: jax.Array, kernel: jax.Array, inputs: int) -> jax.Array:
  """Contracts the last ``inputs`` dims of ``x`` with the first of ``kernel``, in the dtype of x.

  Its own gradient, for two reasons. The backward pass keeps the kernel as it is stored, so that a
  scan over layers does not stack reshaped or converted copies of it. And on CPU the gradient by
  the kernel is taken over one flat axis: given several, XLA first writes a transposed copy of an
  operand, which costs more than the product. Elsewhere the axes stay apart, because rows and
  tokens may be spread over different devices.
  """
  return _forward(x, kernel, inputs)[0]


def _matrices(x, kernel, inputs):
  depth = math.prod(kernel.shape[:inputs])
  x = x.reshape(*x.shape[:x.ndim - inputs], depth)
  return x, kernel.astype(x.dtype).reshape(depth, -1)


def _forward(x, kernel, inputs):
  flat, matrix = _matrices(x, kernel, inputs)
  return (flat @ matrix).reshape(*flat.shape[:-1], *kernel.shape[inputs:]), (x, kernel)


def _backward(inputs, residuals, gradient):
  x, kernel = residuals
  flat, matrix = _matrices(x, kernel, inputs)
  gradient = gradient.reshape(*flat.shape[:-1], -1)
  by_kernel = jax.lax.platform_dependent(flat, gradient, cpu=_flat_outer, default=_outer)
  return ((gradient @ matrix.T).reshape(x.shape),
          by_kernel.reshape(kernel.shape).astype(kernel.dtype))


def _flat_outer(x, gradient):
  return x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])


def _outer(x, gradient):
  leading = tuple(range(x.ndim - 1))
  return jnp.tensordot(x, gradient, axes=(leading, leading))


matrix_product.defvjp(_forward, _backward)
