"""Which token of a packed row belongs to which segment, as an array to multiply with."""

import jax
import jax.numpy as jnp


def segment_one_hot(segments: jax.Array, groups: int, dtype: jnp.dtype = jnp.float32
                    ) -> jax.Array:
  """f[B, L, groups], 1 where token and segment belong together; padding belongs to none.

  Args:
    segments: i32[B, L], 1 .. ``groups``, 0 = padding.
    groups: G, segments that a row may hold.
    dtype: of the result.
  """
  return jax.nn.one_hot(segments - 1, groups, dtype=dtype)
