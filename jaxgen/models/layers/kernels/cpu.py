"""Attention as plain matmuls on CPUs: one head at a time, its scores in pieces.

A CPU is quick while what it works on stays in its caches. Scores that fit there are computed for
all heads at once, as everywhere; above that every core works on the same head. Where tokens are in
the order of their positions and attention is causal, a piece of queries leaves out the keys of
later pieces, which is almost half of the work.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.models.layers.kernels import xla
from jaxgen.models.layers.kernels.contract import Arrays
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility

CACHED_SCORES, CACHED_SCORES_OF_HEAD = 2**21, 400**2  # 8 MB, and less than 1 MB
# Most pieces, and least tokens of one: of causal attention, where more of them leave out more, and
# of other gradients, which hold the weights of a piece at a time.
QUERIES_APART, KEYS_APART, LONG_KEYS_APART = (8, 128), (4, 256), (4, 2048)
LANES, FOLDS = 32, 32  # columns that are folded side by side, and how often at the most


def forward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility) -> Arrays:
  """``Kernel.forward``."""
  if _is_cached(q, k):
    return xla.forward(q, k, v, visibility, _over_row)
  if len(q) > 1:
    return _row_by_row(forward, q, k, v, visibility)
  mask = _mask_of_row(visibility)
  out, logsumexp = _head_by_head(_head_forward, _is_ordered(visibility, mask), mask, (k, v), q)
  return out, logsumexp[..., 0]


def backward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility, out: jax.Array,
             logsumexp: jax.Array, gradient: jax.Array) -> Arrays:
  """``Kernel.backward``."""
  if _is_cached(q, k):
    return xla.backward(q, k, v, visibility, out, logsumexp, gradient)
  if len(q) > 1:
    return _row_by_row(backward, q, k, v, visibility, out, logsumexp, gradient)
  along = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1)
  mask = _mask_of_row(visibility)
  turned = None if mask is None else mask.T  # once, as reading it by columns is slow
  by_q, by_k, by_v = _head_by_head(
      _head_backward, _is_ordered(visibility, mask), turned, (k, v),
      q, logsumexp, along, gradient.astype(q.dtype))
  by_k, by_v = (xla.of_each_group(gradient, k.shape) for gradient in (by_k, by_v))
  return by_q, by_k, by_v


KERNEL = Kernel(lambda q, k: True, forward, backward)


def _is_cached(q, k):
  rows, heads, length, _ = q.shape
  of_head = length * k.shape[2]
  return of_head <= CACHED_SCORES_OF_HEAD and rows * heads * of_head <= CACHED_SCORES


def _row_by_row(function, *given):
  def one(row):
    result = function(*jax.tree.map(lambda x: x[None], row))
    return jax.tree.map(lambda x: x[0], result)

  return jax.lax.map(one, given)


def _head_by_head(head: Callable[..., Arrays], ordered: jax.Array | None, mask: jax.Array | None,
                  kv: Arrays, *queries: jax.Array) -> Arrays:
  """Runs ``head(ordered, mask, k, v, *queries[0, n])`` for each head n of a row.

  Its keys and values are those of its group, [S, H] of [1, K, S, H].
  """
  heads = queries[0].shape[1]
  group = heads // kv[0].shape[1]

  def all_heads(ordered):
    def one(given):
      index, *of_head = given
      k, v = (jax.lax.dynamic_index_in_dim(x[0], index // group, keepdims=False) for x in kv)
      return head(ordered, mask, k, v, *of_head)

    return jax.lax.map(one, (jnp.arange(heads), *(x[0] for x in queries)))

  if ordered is None:
    results = all_heads(False)
  else:
    results = jax.lax.cond(ordered, lambda: all_heads(True), lambda: all_heads(False))
  return tuple(x[None] for x in results)


def _mask_of_row(visibility):
  mask = visibility.mask()
  return None if mask is None else mask[0]


def _is_ordered(visibility, mask):
  """Whether no query sees a key after its own; None where that cannot be."""
  if visibility.q_positions is None or mask.shape[0] != mask.shape[1]:
    return None
  return ~jnp.triu(mask, 1).any()


def _pieces(length, most, least):
  size = max(-(-length // most), least)
  return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _head_forward(ordered, mask, k, v, q):
  """One head: (out f[L, H], logsumexp f32[L, 1])."""
  if not ordered:
    return xla.head_forward(mask, q, k, v, _over_row)
  outs, logsumexps = zip(*(
      xla.head_forward(
          mask[piece, :piece.stop], q[piece], k[:piece.stop], v[:piece.stop], _over_row)
      for piece in _pieces(len(q), *QUERIES_APART)))
  return jnp.concatenate(outs), jnp.concatenate(logsumexps)


def _over_row(combine, x):
  """``xla.over_row``; XLA takes the numbers of a row in turn, but folds columns side by side."""
  length = x.shape[-1]
  width = LANES * -(-length // (LANES * FOLDS))
  parts = [x[:, start:start + width] for start in range(0, length, width)]
  rest = [parts.pop()] if length % width else []
  while len(parts) > 1:
    half = len(parts) // 2
    parts = [*map(combine, parts[:half], parts[half:2 * half]), *parts[2 * half:]]
  return xla.over_row(combine, jnp.concatenate(parts + rest, axis=-1))


def _head_backward(ordered, mask, k, v, q, logsumexp, along, gradient):
  """One head: gradients with respect to q, k and v; ``mask`` bool[S, L].

  No matmul reads the weights by columns, which is slow: keys are their rows, and the gradient with
  respect to q comes out transposed, f32[H, L].
  """
  by_q, by_k, by_v = jnp.zeros(q.shape[::-1], jnp.float32), [], []
  for piece in _pieces(len(k), *(KEYS_APART if ordered else LONG_KEYS_APART)):
    seers = slice(piece.start if ordered else 0, len(q))
    grads = _piece_backward(
        None if mask is None else mask[piece, seers], q[seers], k[piece], v[piece],
        logsumexp[seers], along[seers], gradient[seers])
    by_q = by_q.at[:, seers].add(grads[0])
    by_k.append(grads[1])
    by_v.append(grads[2])
  return _kept(by_q).T.astype(q.dtype), jnp.concatenate(by_k), jnp.concatenate(by_v)


def _piece_backward(mask, q, k, v, logsumexp, along, gradient):
  weights = jnp.exp(xla.scores(mask, k, q) - logsumexp)
  by_scores = (weights * (xla.product(v, gradient.T) - along)).astype(q.dtype)
  by_k = xla.product(by_scores, q)
  by_v = xla.product(weights.astype(q.dtype), gradient)
  return xla.product(_kept(k.T), by_scores), by_k.astype(k.dtype), by_v.astype(v.dtype)


def _kept(x):
  """Keeps XLA from moving a transpose from ``x``, a small factor or product, to the weights."""
  return jax.lax.optimization_barrier(x)
