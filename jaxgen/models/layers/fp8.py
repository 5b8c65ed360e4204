"""fp8 matmuls between hidden units, for Hopper's tensor cores.

Only the operands of a matmul have eight bits, forward and backward: activations and kernels are
e4m3, gradients e5m2, each row of a contraction with a scale that qwix takes from its largest entry.
Parameters, accumulators and everything that is saved keep their dtypes, and what runs in fp32, such
as the time path, still does.
"""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxgen.models.layers.linear import Activation
from jaxgen.models.layers.linear import HIDDEN_PRODUCT
from jaxgen.models.layers.linear import matrices

VALUES, GRADIENTS = jnp.float8_e4m3fn, jnp.float8_e5m2


@contextlib.contextmanager
def products(wanted: bool = True) -> Iterator[None]:
  """Within it, every ``Linear`` between hidden units is traced with fp8 matmuls, if ``wanted``."""
  token = HIDDEN_PRODUCT.set(matrix_product if wanted else HIDDEN_PRODUCT.get())
  try:
    yield
  finally:
    HIDDEN_PRODUCT.reset(token)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def matrix_product(x: jax.Array, kernel: jax.Array, inputs: int, activation: Activation
                   ) -> jax.Array:
  """``linear.matrix_product`` with fp8 operands; ``x`` and ``kernel`` are its residuals too."""
  return _forward(x, kernel, inputs, activation)[0]


def _forward(x, kernel, inputs, activation):
  flat, matrix = matrices(activation(x), kernel, inputs)
  out = _product(flat, VALUES, matrix, VALUES, ((flat.ndim - 1,), (0,)))
  return out.reshape(*flat.shape[:-1], *kernel.shape[inputs:]), (x, kernel)


def _backward(inputs, activation, residuals, gradient):
  x, kernel = residuals
  activated, pull_back = jax.vjp(activation, x)
  flat, matrix = matrices(activated, kernel, inputs)
  gradient = gradient.reshape(*flat.shape[:-1], -1)
  rows = tuple(range(flat.ndim - 1))
  by_kernel = _product(flat, VALUES, gradient, GRADIENTS, (rows, rows))
  by_x = _product(gradient, GRADIENTS, matrix, VALUES, ((gradient.ndim - 1,), (1,)))
  by_x, = pull_back(by_x.reshape(activated.shape))
  return by_x, by_kernel.reshape(kernel.shape).astype(kernel.dtype)


matrix_product.defvjp(_forward, _backward)


def _product(a, a_format, b, b_format, contracted):
  import qwix  # an extra; see ``quantized.require_qwix``
  a, b = (qwix.quantize(x, kind, channelwise_axes=set(range(x.ndim)) - set(axes))
          for x, kind, axes in ((a, a_format, contracted[0]), (b, b_format, contracted[1])))
  return qwix.dot_general(a, b, (contracted, ((), ())), preferred_element_type=a.scale.dtype)
