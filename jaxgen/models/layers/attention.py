"""The one attention of the project: segments, optional causality, grouped queries."""

import math

import jax
import jax.numpy as jnp

NEGATIVE = -1e30  # finite, so that a fully masked row stays free of NaN


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    q_segments: jax.Array | None,
    kv_segments: jax.Array | None,
    q_positions: jax.Array | None = None,
    kv_positions: jax.Array | None = None,
) -> jax.Array:
  """Softmax attention within segments.

  A query sees a key where both carry the same non-zero segment and, if positions are given,
  where the key's position is not after the query's. A query that sees nothing gets zeros.

  Args:
    q: f[B, L, N, H].
    k: f[B, S, K, H]; K divides N (grouped queries).
    v: f[B, S, K, H].
    q_segments: i32[B, L], or None together with ``kv_segments``: everything sees everything.
    kv_segments: i32[B, S].
    q_positions: i32[B, L], or None for attention in both directions.
    kv_positions: i32[B, S].

  Returns:
    f[B, L, N, H] in the dtype of ``q``; the softmax is fp32.
  """
  rows, length, heads, dim = q.shape
  kv_heads = k.shape[2]
  assert heads % kv_heads == 0, (heads, kv_heads)
  mask = attention_mask(q_segments, kv_segments, q_positions, kv_positions)
  q = q.reshape(rows, length, kv_heads, heads // kv_heads, dim) * (1 / math.sqrt(dim))
  scores = jnp.einsum('BLKMH,BSKH->BKMLS', q, k, preferred_element_type=jnp.float32)
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, NEGATIVE)
  weights = jax.nn.softmax(scores, axis=-1)
  out = jnp.einsum('BKMLS,BSKH->BLKMH', weights.astype(v.dtype), v)
  if mask is not None:
    out = jnp.where(mask.any(axis=-1)[:, :, None, None, None], out, 0)
  return out.reshape(rows, length, heads, dim)


def attention_mask(
    q_segments: jax.Array | None,
    kv_segments: jax.Array | None,
    q_positions: jax.Array | None = None,
    kv_positions: jax.Array | None = None,
) -> jax.Array | None:
  """bool[B, L, S], True where the query sees the key; None where everything does."""
  mask = None
  if q_segments is not None:
    same = q_segments[:, :, None] == kv_segments[:, None, :]
    mask = same & (q_segments[:, :, None] != 0)
  if q_positions is not None:
    causal = kv_positions[:, None, :] <= q_positions[:, :, None]
    mask = causal if mask is None else mask & causal
  return mask
