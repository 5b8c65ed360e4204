"""Learned queries: what their modules have in common, and their places in the embedded prompt."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Queries(nn.Module):
  """Gives every segment of a row its queries.

  Attributes:
    config: sizes; has ``width`` D, channels of the language model, and ``queries`` Q.
    dtype: of the computation.
  """

  config: Any
  dtype: jnp.dtype = jnp.float32

  def __call__(self, states: jax.Array, segments: jax.Array, groups: int) -> jax.Array:
    """Makes the queries.

    Args:
      states: f[B, S, D], embedded prompt.
      segments: i32[B, S] of the prompt proper, 0 = not seen: padding, and the places where the
        queries are to stand.
      groups: G, segments of a row. Absent ones get queries too.

    Returns:
      f[B, G, Q, D].
    """
    raise NotImplementedError

  @nn.nowrap
  def example(self) -> tuple[jax.Array, jax.Array, int]:
    """The smallest arguments of ``__call__``: one token of one segment."""
    return jnp.zeros((1, 1, self.config.width)), jnp.ones((1, 1), jnp.int32), 1


def place_queries(embeddings: jax.Array, queries: jax.Array, segments: jax.Array,
                  query_index: jax.Array) -> jax.Array:
  """Puts every segment's queries into the prompt.

  Args:
    embeddings: f[B, S, D], embedded prompt.
    queries: f[B, G, Q, D].
    segments: i32[B, S], 1 .. G; the segment that a query belongs to.
    query_index: i32[B, S], which of its Q queries stands here, -1 for none.

  Returns:
    f[B, S, D] in the dtype of ``embeddings``, which stay as they are where no query stands.
  """
  rows, groups, count, width = queries.shape
  flat = queries.astype(embeddings.dtype).reshape(rows, groups * count, width)
  is_query = query_index >= 0
  index = jnp.where(is_query, (segments - 1) * count + query_index, 0)  # [B, S]
  placed = jnp.take_along_axis(flat, index[..., None], axis=1)  # [B, S, D]
  return jnp.where(is_query[..., None], placed, embeddings)
