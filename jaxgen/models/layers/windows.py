"""Attention within small windows at a cost that is linear in the length of the row."""

import jax
import jax.numpy as jnp

from jaxgen.models.layers.attention import attend


def attend_windows(q: jax.Array, k: jax.Array, v: jax.Array, windows: jax.Array, largest: int
                   ) -> jax.Array:
  """Attention of tokens that are sorted by window.

  The row is cut into blocks of ``largest`` tokens. A window lies in at most two neighbouring
  blocks, so the tokens of a block look at their own block and those beside it, and the window
  numbers decide what they see there.

  Args:
    q: f[B, L, N, H]; ``k`` and ``v`` alike.
    windows: i32[B, L], equal numbers side by side, 0 = padding.
    largest: tokens of the largest window.

  Returns:
    f[B, L, N, H]; zeros at padding.
  """
  length = q.shape[1]
  blocks = -(-length // largest)

  def cut(x):
    """[B, L, ...] -> [B, blocks, largest, ...], padded with zeros."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, blocks * largest - length)
    return jnp.pad(x, pad).reshape(x.shape[0], blocks, largest, *x.shape[2:])

  def beside(x):
    """[B, blocks, largest, ...] -> [B * blocks, 3 * largest, ...]."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (1, 1)
    x = jnp.pad(x, pad)
    x = jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)
    return x.reshape(-1, *x.shape[2:])

  q, k, v, windows = (cut(x) for x in (q, k, v, windows))
  shape = q.shape
  q, own = (x.reshape(-1, *x.shape[2:]) for x in (q, windows))
  out = attend(q, beside(k), beside(v), q_segments=own, kv_segments=beside(windows))
  return out.reshape(shape[0], blocks * largest, *shape[3:])[:, :length]
