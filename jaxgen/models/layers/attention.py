"""The one attention of the project: segments, optional causality, grouped queries."""

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

SAVED = 'attention'  # the name under which remat policies find the results of attention
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
  backward pass computes again: quadratic memory lives for one layer at a time, and on CPU the
  weights never travel through the stacked residuals of a scan.
  """
  return _attention_forward(q, k, v, mask)[0]


def _scores(q, k, mask):
  scores = _product(q, k, 3, 3)
  return scores if mask is None else jnp.where(mask[:, None], scores, NEGATIVE)


def _attention_forward(q, k, v, mask):
  scores = _scores(q, k, mask)
  largest = jnp.max(scores, axis=-1, keepdims=True)
  weights = jnp.exp(scores - largest)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  out = _product(weights.astype(v.dtype), v, 3, 2) / total
  log_total = largest + jnp.log(total)
  if mask is not None:
    # A query that sees nothing: zeros here, and weights of exp(NEGATIVE) = 0 in the gradient.
    sees = mask.any(axis=-1)[:, None, :, None]
    out, log_total = jnp.where(sees, out, 0), jnp.where(sees, log_total, 0)
  out = checkpoint_name(out.astype(q.dtype), SAVED)
  log_total = checkpoint_name(log_total, SAVED)
  return out, (q, k, v, mask, out, log_total)


def _attention_backward(residuals, gradient):
  q, k, v, mask, out, log_total = residuals
  gradient = gradient.astype(q.dtype)
  weights = jnp.exp(_scores(q, k, mask) - log_total)
  by_v = _product(weights.astype(q.dtype), gradient, 2, 2)
  along = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1, keepdims=True)
  by_scores = (weights * (_product(gradient, v, 3, 3) - along)).astype(q.dtype)
  by_q = _product(by_scores, k, 3, 2)
  by_k = _product(by_scores, q, 2, 2)
  return by_q.astype(q.dtype), by_k.astype(k.dtype), by_v.astype(v.dtype), None


def _product(a, b, a_axis, b_axis):
  """Contracts one axis for every row and head, accumulating in fp32: what matrix units do best."""
  return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((0, 1), (0, 1))),
                             preferred_element_type=jnp.float32)


_attention.defvjp(_attention_forward, _attention_backward)
