"""From tokens to the queries, keys and values of attention heads, and their rotation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.layers import attention
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.rope import apply_rope


class QKV(nn.Module):
  """Queries and keys, normed per head, and values.

  Attributes:
    heads: N.
    head_dim: H.
    use_bias: for the three projections.
    norm: queries and keys get an RMS norm per head.
    epsilon: of the norms.
    dtype: of the computation.
  """

  heads: int
  head_dim: int
  use_bias: bool = True
  norm: bool = True
  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array | None = None
               ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Projects tokens.

    Args:
      x: f[B, L, D], gives the queries.
      context: f[B, S, E], gives keys and values; None = ``x`` itself.

    Returns:
      f[B, L, N, H] and twice f[B, S, N, H].
    """
    context = x if context is None else context
    q, k, v = (Linear((self.heads, self.head_dim), ('embed', 'heads', 'head_dim'),
                      use_bias=self.use_bias, dtype=self.dtype, name=name)(source)
               for name, source in zip('qkv', (x, context, context)))
    if self.norm:
      q = RMSNorm(self.epsilon, 'head_dim', self.dtype, name='q_norm')(q)
      k = RMSNorm(self.epsilon, 'head_dim', self.dtype, name='k_norm')(k)
    return q, k, v


def rotary_attention(q, k, v, cos, sin, segments, *, interleaved: bool = True) -> jax.Array:
  """Self-attention within segments i32[B, L] of rotated f[B, L, N, H]; see ``apply_rope``.

  Where ``cos`` and ``sin`` are None, nothing is rotated.
  """
  if cos is not None:
    q = apply_rope(q, cos, sin, interleaved=interleaved)
    k = apply_rope(k, cos, sin, interleaved=interleaved)
  return attention.attend(q, k, v, q_segments=segments, kv_segments=segments)
