"""The one attention of the project: segments, optional causality, grouped queries."""

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

SAVED = 'attention'  # the name under which remat policies find the results of attention
CACHED_SCORES = 2**21  # scores, 8 MB, that a CPU holds close while it works on them
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
  heads, kv_heads = q.shape[2], k.shape[2]
  assert heads % kv_heads == 0, (heads, kv_heads)
  if heads != kv_heads:
    k, v = (x.repeat(heads // kv_heads, axis=2) for x in (k, v))
  mask = attention_mask(q_segments, kv_segments, q_positions, kv_positions)
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * (1 / math.sqrt(q.shape[-1])), k, v))
  return _attention(q, k, v, mask).transpose(0, 2, 1, 3)


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


@jax.custom_vjp
def _attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Attention of scaled queries, heads first: f[B, N, L, H] and f[B, N, S, H] to f[B, N, L, H].

  Its own gradient keeps the logarithm of the softmax sum instead of the L x S weights, which the
  backward pass computes again: quadratic memory lives for one layer at a time, and the weights
  never travel through the stacked residuals of a scan.
  """
  return _attention_forward(q, k, v, mask)[0]


def _attention_forward(q, k, v, mask):
  out, log_total = _each_head(_head_forward, mask, q, k, v)
  out, log_total = checkpoint_name((out, log_total), SAVED)
  return out, (q, k, v, mask, out, log_total)


def _attention_backward(residuals, gradient):
  q, k, v, mask, out, log_total = residuals
  return *_each_head(_head_backward, mask, q, k, v, out, log_total, gradient), None


_attention.defvjp(_attention_forward, _attention_backward)


def _head_forward(mask, q, k, v):
  """One head: (out f[L, H], logarithm of the softmax sum f32[L, 1])."""
  scores = _scores(mask, q, k)
  largest = jnp.max(scores, axis=-1, keepdims=True)
  weights = jnp.exp(scores - largest)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  out = _product(weights.astype(v.dtype), v) / total
  log_total = largest + jnp.log(total)
  if mask is not None:
    # A query that sees nothing: zeros here, and weights of exp(NEGATIVE) = 0 in the gradient.
    sees = mask.any(axis=-1, keepdims=True)
    out, log_total = jnp.where(sees, out, 0), jnp.where(sees, log_total, 0)
  return out.astype(q.dtype), log_total


def _head_backward(mask, q, k, v, out, log_total, gradient):
  """One head: gradients by q, k and v."""
  gradient = gradient.astype(q.dtype)
  weights = jnp.exp(_scores(mask, q, k) - log_total)
  along = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1, keepdims=True)
  by_scores = (weights * (_product(gradient, v.T) - along)).astype(q.dtype)
  by_q = _product(by_scores, k)
  by_k = _product(by_scores.T, q)
  by_v = _product(weights.astype(q.dtype).T, gradient)
  return by_q.astype(q.dtype), by_k.astype(k.dtype), by_v.astype(v.dtype)


def _scores(mask, q, k):
  scores = _product(q, k.T)
  return scores if mask is None else jnp.where(mask, scores, NEGATIVE)


def _product(a, b):
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _each_head(function, mask, *arrays):
  """Runs ``function(mask[L, S], *[L, H])`` for each row and head of bool[B, L, S], f[B, N, L, H].

  All at once on accelerators. On CPU one after another as soon as the scores of all together
  leave the cache: every core works on the same head.
  """
  together = jax.vmap(jax.vmap(function, (None, *[0] * len(arrays))))

  def in_turn(mask, *arrays):
    rows, heads, length, _ = arrays[0].shape
    head = length * arrays[1].shape[2]
    if rows * heads * head <= CACHED_SCORES:
      return together(mask, *arrays)
    if heads * head <= CACHED_SCORES:
      return jax.lax.map(lambda row: jax.vmap(function, (None, *[0] * len(arrays)))(*row),
                         (mask, *arrays))
    return jax.lax.map(
        lambda row: jax.lax.map(lambda one: function(row[0], *one), row[1:]), (mask, *arrays))

  return jax.lax.platform_dependent(mask, *arrays, cpu=in_turn, default=together)
