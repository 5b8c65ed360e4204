"""Flash attention of cuDNN on NVIDIA GPUs, for half precision; segments become a bias.

The call itself is the one behind ``jax.nn.dot_product_attention(implementation='cudnn')``. It is
bound here directly for three reasons: the backward pass can start from the logsumexp that was kept,
it need not compute a gradient with respect to the bias, and a program for a GPU can be lowered on a
machine that has neither the GPU nor cuDNN.
"""

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from jaxgen.models.layers.kernels.contract import Arrays
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility

SHORTEST = 64  # below, plain matmuls take no longer
WIDEST = 128  # head dimension of every generation of GPU; wider ones are for Hopper only
ALIGNMENT = 8  # halfs in the 16 bytes that a row of the bias must start at


def fits(q: jax.Array, k: jax.Array) -> bool:
  """Half precision, heads of 8 to 128 channels by eights, no short rows."""
  half = q.dtype in (jnp.bfloat16, jnp.float16) and k.dtype == q.dtype
  heads = q.shape[3] <= WIDEST and q.shape[3] % 8 == 0
  return half and heads and min(q.shape[2], k.shape[2]) >= SHORTEST


def forward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility) -> Arrays:
  """``Kernel.forward``."""
  length, sees = q.shape[2], visibility.sees()
  q, k, v, bias, options = _prepare(q, k, v, visibility)
  out, logsumexp = cudnn._dot_product_attention_fwd_impl(
      q, k, v, bias, *_unused(q, 6), **options, is_training=True)
  out, logsumexp = out[:, :, :length], logsumexp[:, :, :length]
  if sees is not None:
    out = jnp.where(sees[:, None, :, None], out, 0)
  return out, logsumexp


def backward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility, out: jax.Array,
             logsumexp: jax.Array, gradient: jax.Array) -> Arrays:
  """``Kernel.backward``."""
  lengths, sees = (q.shape[2], k.shape[2]), visibility.sees()
  if sees is not None:
    # Under a bias that is low everywhere a query looks at everything: that ends here.
    gradient = jnp.where(sees[:, None, :, None], gradient, 0)
  q, k, v, bias, options = _prepare(q, k, v, visibility)
  if bias.size:
    out, gradient = (_pad(x) for x in (out, gradient))
    logsumexp = jnp.pad(logsumexp, ((0, 0), (0, 0), (0, -lengths[0] % ALIGNMENT)))
  by_q, by_k, by_v = cudnn._dot_product_attention_bwd_impl(
      q, k, v, bias, *_unused(q, 6), logsumexp, out, gradient.astype(q.dtype), **options)
  return by_q[:, :, :lengths[0]], by_k[:, :, :lengths[1]], by_v[:, :, :lengths[1]]


KERNEL = Kernel(fits, forward, backward)


def _prepare(q, k, v, visibility):
  """Padded arrays, the bias and the call's options; without a mask nothing is padded."""
  mask = visibility.mask()
  if mask is None:
    bias = jnp.zeros(0, q.dtype)
  else:
    low = cudnn.get_large_negative_number(q.dtype)
    pads = ((0, 0), *((0, -size % ALIGNMENT) for size in mask.shape[1:]))
    bias = jnp.where(jnp.pad(mask, pads), jnp.zeros((), q.dtype), low)[:, None]
    q, k, v = (_pad(x) for x in (q, k, v))
  options = dict(
      scale=1.0, seed=0, dropout_rate=0.0, variadic_args=(mask is not None, False),
      mask_type=cudnn.MaskType.NO_MASK, layout=cudnn.AttentionLayout.BNTH.value,
      sliding_window_length=None)
  return q, k, v, bias, options


def _unused(q, count):
  """Lengths, offsets and page tables of layouts that are not used here."""
  return [jnp.zeros(0, q.dtype)] * count


def _pad(x):
  """f[B, N, L, H] with a length that is a multiple of the alignment."""
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % ALIGNMENT), (0, 0)))
