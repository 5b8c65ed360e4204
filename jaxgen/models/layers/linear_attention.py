"""Attention without softmax, whose cost grows with the length and not with its square."""

import jax
import jax.numpy as jnp

from jaxgen.models.layers.segments import segment_one_hot

EPSILON = 1e-15  # keeps the division defined for a query that no key answers

HIGHEST = jax.lax.Precision.HIGHEST


def attend_linearly(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, groups: int
                    ) -> jax.Array:
  """``relu(q) sum(relu(k)^T v) / relu(q) sum(relu(k))``, the sums over the own segment.

  Args:
    q: f[B, L, N, H]; ``k`` and ``v`` alike.
    k: see ``q``.
    v: see ``q``.
    segments: i32[B, L], 1 .. ``groups``, 0 = padding, whose result is zero.
    groups: G, segments that a row may hold.

  Returns:
    f[B, L, N, H] in the dtype of ``v``; sums and division are fp32.
  """
  q, k = (nonnegative.astype(jnp.float32) for nonnegative in (jax.nn.relu(q), jax.nn.relu(k)))
  # A last column of ones makes the sum of the weights come out beside the sum of the values.
  values = jnp.pad(v.astype(jnp.float32), ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1)
  own = segment_one_hot(segments, groups)
  sums = jnp.einsum('BLG,BLNH,BLNJ->BGNHJ', own, k, values, precision=HIGHEST)
  out = jnp.einsum('BLG,BLNH,BGNHJ->BLNJ', own, q, sums, precision=HIGHEST)
  return (out[..., :-1] / (out[..., -1:] + EPSILON)).astype(v.dtype)
