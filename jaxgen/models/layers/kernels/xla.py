"""Attention as plain products, for every platform, shape and dtype."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.models.layers.kernels.contract import Arrays
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility

CACHED_SCORES = 2**21  # scores, 8 MB, that a CPU holds close while it works on them
HEADS_IN_A_TURN = 4  # of a CPU's loop over heads; more take longer to compile
NEGATIVE = -1e30  # finite, so that a fully masked row stays free of NaN


def forward(
    each_head: Callable[..., Arrays], q: jax.Array, k: jax.Array, v: jax.Array,
    visibility: Visibility) -> Arrays:
  """``Kernel.forward``; ``each_head`` spreads the work over rows and heads."""
  k, v = (_for_each_query_head(x, q.shape[1]) for x in (k, v))
  out, log_total = each_head(_head_forward, visibility.mask(), q, k, v)
  return out, log_total[..., 0]


def backward(
    each_head: Callable[..., Arrays], q: jax.Array, k: jax.Array, v: jax.Array,
    visibility: Visibility, out: jax.Array, log_total: jax.Array, gradient: jax.Array) -> Arrays:
  """``Kernel.backward``; the L x S weights are computed again, one head's at a time."""
  shape = k.shape
  k, v = (_for_each_query_head(x, q.shape[1]) for x in (k, v))
  by_q, by_k, by_v = each_head(
      _head_backward, visibility.mask(), q, k, v, out, log_total[..., None], gradient)
  return by_q, _of_each_group(by_k, shape), _of_each_group(by_v, shape)


def all_at_once(function: Callable[..., Arrays], mask: jax.Array | None, *arrays: jax.Array
                ) -> Arrays:
  """Runs ``function(mask[L, S], *[L, H])`` for each row and head of bool[B, L, S], f[B, N, .].

  The mask is None where everything is seen.
  """
  return jax.vmap(_over_heads(function, arrays))(mask, *arrays)


def in_turn(function: Callable[..., Arrays], mask: jax.Array | None, *arrays: jax.Array
            ) -> Arrays:
  """The same one after another, as soon as the scores of all together leave a CPU's cache, so
  that every core works on the same head, or on the next where its own share is done."""
  rows, heads, length, _ = arrays[0].shape
  head = length * arrays[1].shape[2]
  if rows * heads * head <= CACHED_SCORES:
    return all_at_once(function, mask, *arrays)
  if heads * head <= CACHED_SCORES:
    return jax.lax.map(lambda row: _over_heads(function, arrays)(*row), (mask, *arrays))
  return jax.lax.map(
      lambda row: _few_at_a_time(lambda one: function(row[0], *one), row[1:]), (mask, *arrays))


def _kernel(each_head: Callable[..., Arrays]) -> Kernel:
  return Kernel(lambda q, k: True, functools.partial(forward, each_head),
                functools.partial(backward, each_head))


ANYWHERE = _kernel(all_at_once)
ON_CPU = _kernel(in_turn)


def _few_at_a_time(function, arrays):
  """``lax.map`` with ``HEADS_IN_A_TURN`` in a turn of its loop."""
  return jax.lax.scan(lambda _, one: (None, function(one)), None, arrays,
                      unroll=HEADS_IN_A_TURN)[1]


def _over_heads(function, arrays):
  return jax.vmap(function, (None, *[0] * len(arrays)))


def _for_each_query_head(x, heads):
  """f[B, K, S, H] -> f[B, N, S, H]."""
  return x if x.shape[1] == heads else x.repeat(heads // x.shape[1], axis=1)


def _of_each_group(gradient, shape):
  """f[B, N, S, H] -> f[B, K, S, H], the sum over the queries of a group."""
  if gradient.shape == shape:
    return gradient
  groups = gradient.reshape(*shape[:2], -1, *shape[2:])
  return groups.astype(jnp.float32).sum(axis=2).astype(gradient.dtype)


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
