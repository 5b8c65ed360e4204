"""The one attention of the project: segments, optional causality, grouped queries."""

import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxgen.models.layers.kernels import dispatch
from jaxgen.models.layers.kernels.contract import Visibility

SAVED = 'attention'  # the name under which remat policies find the results of attention


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

  The kernel is the best one of the platform that the program is lowered for (``kernels``). Under
  a mesh, rows, heads and queries are split by the logical rules ``rows``, ``heads`` and
  ``tokens`` where they divide. Keys are gathered, or rotate around a ring of devices where the rule
  ``keys`` splits them as queries are.

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
  (rows, length, heads, size), (_, keys, kv_heads, _) = q.shape, k.shape
  assert heads % kv_heads == 0, (heads, kv_heads)
  split = dispatch.split_of(rows, heads, length, keys)
  if split is not None and split.heads != _heads_split(rows, kv_heads, length, keys):
    # Fewer key heads than devices that split the heads: each device needs its own copy.
    k, v = (x.repeat(heads // kv_heads, axis=2) for x in (k, v))
  visibility = Visibility(q_segments, kv_segments, q_positions, kv_positions)
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * (1 / math.sqrt(size)), k, v))
  return _attention(split, q, k, v, visibility).transpose(0, 2, 1, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(split: dispatch.Split | None, q: jax.Array, k: jax.Array, v: jax.Array,
               visibility: Visibility) -> jax.Array:
  """Attention of scaled queries, heads first: f[B, N, L, H] and f[B, K, S, H] to f[B, N, L, H].

  Its custom gradient keeps the logsumexp instead of the L x S weights, which the backward pass
  recomputes: quadratic memory lives for one layer at a time, and the weights are never among the
  stacked residuals of a scan.
  """
  return _attention_forward(split, q, k, v, visibility)[0]


def _attention_forward(split, q, k, v, visibility):
  out, logsumexp = dispatch.forward(q, k, v, visibility, split)
  out, logsumexp = checkpoint_name((out, logsumexp), SAVED)
  return out, (q, k, v, visibility, out, logsumexp)


def _attention_backward(split, residuals, gradient):
  return *dispatch.backward(*residuals, gradient, split), None


_attention.defvjp(_attention_forward, _attention_backward)


def _heads_split(rows, heads, length, keys):
  split = dispatch.split_of(rows, heads, length, keys)
  return split.heads if split is not None else ()
