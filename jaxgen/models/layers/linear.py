"""The one dense projection of the project, with a logical name for every kernel axis."""

import contextvars
import functools
import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Initializer = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]

HEADS = ('heads', 'kv_heads')
# Dims of kernels between hidden units. One that touches anything else (a vocabulary, latents,
# patches, queries, a norm) reads the input or makes the output.
HIDDEN = frozenset({'embed', 'head_dim', 'mlp', *HEADS})

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros_init()


def normal(stddev: float) -> Initializer:
  """Gaussian initialiser that ignores the fan."""
  return nn.initializers.normal(stddev)


def identity(x: jax.Array) -> jax.Array:
  """No activation."""
  return x


def input_dims(names: Sequence[str]) -> int:
  """How many dims of a kernel with these axes are contracted: heads come as two, (N, H)."""
  return 2 if names[0] in HEADS else 1


def linear_kernels(axes: Mapping[str, tuple[str, ...]]) -> list[str]:
  """The kernels of linear modules among all parameters, path -> logical names.

  Those of convolutions are none, pointwise ones included.
  """
  return [path for path, names in axes.items()
          if path.endswith('/kernel') and 'conv_in' not in names and names.count('patch') < 2]


class Linear(nn.Module):
  """``y[..., *features] = act(x)[..., *inputs] @ kernel[*inputs, *features] + bias[*features]``.

  Where the parameters hold a low-rank adapter beside the kernel (see ``lora``), its output is
  added; the kernel itself stays as it is. Where they hold a ``kernel_scale``, the kernel has eight
  bits (see ``quantized``). Policies of ``remat`` know the result by the last word of
  the module's name: ``out`` of ``attention_out``.

  Attributes:
    features: output dims; ``(N, H)`` splits into heads at once.
    names: logical axis of each kernel dim, inputs first.
    inputs: how many trailing dims of ``x`` are contracted; 2 for ``(N, H) -> D``.
    use_bias: adds a bias, zero at the start.
    kernel_init: sees the kernel as a matrix, so that fans are right whatever the dims.
    activation: applied to ``x`` first; the backward pass keeps ``x`` and applies it again.
    dtype: of the computation and the result; parameters are created fp32.
  """

  features: tuple[int, ...]
  names: tuple[str, ...]
  inputs: int = 1
  use_bias: bool = True
  kernel_init: Initializer = xavier
  activation: Activation = identity
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    contracted = x.shape[x.ndim - self.inputs:]
    shape = contracted + self.features
    assert len(self.names) == len(shape), (self.names, shape)
    assert input_dims(self.names) == self.inputs, (self.names, self.inputs)

    def kernel_init(key, shape, dtype):
      matrix = (math.prod(contracted), math.prod(self.features))
      return self.kernel_init(key, matrix, dtype).reshape(shape)

    kernel = self.param(
        'kernel', nn.with_logical_partitioning(kernel_init, self.names), shape, jnp.float32)
    x = x.astype(self.dtype)
    product = HIDDEN_PRODUCT.get() if self._is_hidden(kernel) else matrix_product
    y = product(x, kernel, self.inputs, self.activation)
    if self.has_variable('params', 'kernel_scale'):
      y = (y * self.get_variable('params', 'kernel_scale')).astype(self.dtype)
    if self.has_variable('params', 'lora'):
      y = y + self._low_rank(x, self.get_variable('params', 'lora'))
    if self.use_bias:
      bias = self.param(
          'bias', nn.with_logical_partitioning(zeros, self.names[self.inputs:]),
          self.features, jnp.float32)
      y = y + bias.astype(self.dtype)
    return checkpoint_name(y, (self.name or '').rpartition('_')[2])

  def _is_hidden(self, kernel: jax.Array) -> bool:
    """Whether it stands between hidden units, in 16 bits: what is fp32 is so on purpose."""
    return (HIDDEN.issuperset(self.names) and self.dtype == jnp.bfloat16
            and jnp.issubdtype(kernel.dtype, jnp.floating))

  def _low_rank(self, x: jax.Array, lora: Mapping[str, jax.Array]) -> jax.Array:
    """``act(x) @ a @ b * alpha / rank``; the frozen kernel needs no gradient for it."""
    low = matrix_product(x, lora['a'], self.inputs, self.activation)
    scale = lora['alpha'].astype(jnp.float32) / lora['a'].shape[-1]
    return matrix_product(low, lora['b'], 1, identity) * scale.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def matrix_product(x: jax.Array, kernel: jax.Array, inputs: int, activation: Activation
                   ) -> jax.Array:
  """Contracts the last ``inputs`` dims of ``activation(x)`` with the first of ``kernel``.

  It has a custom gradient, for three reasons. The residual is the kernel as it is stored, so that
  a scan over layers does not stack reshaped or converted copies of it. ``x`` is kept and not its
  activation. And on CPU the gradient with respect to the kernel is taken over one flat axis: given
  several, XLA first writes a transposed copy of an operand, which costs more than the matmul.
  Elsewhere the axes stay apart, because rows and tokens may be split over different devices.
  """
  return _forward(x, kernel, inputs, activation)[0]


def _forward(x, kernel, inputs, activation):
  flat, matrix = matrices(activation(x), kernel, inputs)
  return (flat @ matrix).reshape(*flat.shape[:-1], *kernel.shape[inputs:]), (x, kernel)


def _backward(inputs, activation, residuals, gradient):
  x, kernel = residuals
  activated, pull_back = jax.vjp(activation, x)
  flat, matrix = matrices(activated, kernel, inputs)
  gradient = gradient.reshape(*flat.shape[:-1], -1)
  by_kernel = jax.lax.platform_dependent(flat, gradient, cpu=_flat_outer, default=_outer)
  by_x, = pull_back((gradient @ matrix.T).reshape(activated.shape))
  if not jnp.issubdtype(kernel.dtype, jnp.floating):  # quantised, and so frozen
    return by_x, None
  return by_x, by_kernel.reshape(kernel.shape).astype(kernel.dtype)


def matrices(x: jax.Array, kernel: jax.Array, inputs: int) -> tuple[jax.Array, jax.Array]:
  """``x`` f[..., depth], and the kernel as a matrix f[depth, width] of the same dtype."""
  depth = math.prod(kernel.shape[:inputs])
  x = x.reshape(*x.shape[:x.ndim - inputs], depth)
  return x, kernel.astype(x.dtype).reshape(depth, -1)


def _flat_outer(x, gradient):
  return x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])


def _outer(x, gradient):
  leading = tuple(range(x.ndim - 1))
  return jnp.tensordot(x, gradient, axes=(leading, leading))


matrix_product.defvjp(_forward, _backward)

# The matmul of every ``Linear`` between hidden units; see ``fp8``.
HIDDEN_PRODUCT = contextvars.ContextVar('HIDDEN_PRODUCT', default=matrix_product)
