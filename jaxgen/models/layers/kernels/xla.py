"""Attention as plain matmuls, for every platform, shape and dtype."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.models.layers.kernels.contract import Arrays
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility

NEGATIVE = -1e30  # finite, so that a fully masked row stays free of NaN


def over_row(combine: jnp.ufunc, x: jax.Array) -> jax.Array:
  """The maximum or the sum of each row, f32[L, S] -> f32[L, 1]."""
  return combine.reduce(x, axis=-1, keepdims=True)


def forward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility,
            over_row: Callable[..., jax.Array] = over_row) -> Arrays:
  """``Kernel.forward``; ``over_row`` takes maxima and sums."""
  k, v = (for_each_query_head(x, q.shape[1]) for x in (k, v))
  head = functools.partial(head_forward, over_row=over_row)
  out, logsumexp = _each_head(head, visibility.mask(), q, k, v)
  return out, logsumexp[..., 0]


def backward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility, out: jax.Array,
             logsumexp: jax.Array, gradient: jax.Array) -> Arrays:
  """``Kernel.backward``; the L x S weights are recomputed."""
  shape = k.shape
  k, v = (for_each_query_head(x, q.shape[1]) for x in (k, v))
  by_q, by_k, by_v = _each_head(
      _head_backward, visibility.mask(), q, k, v, out, logsumexp[..., None], gradient)
  return by_q, of_each_group(by_k, shape), of_each_group(by_v, shape)


KERNEL = Kernel(lambda q, k: True, forward, backward)


def _each_head(function: Callable[..., Arrays], mask: jax.Array | None, *arrays: jax.Array
               ) -> Arrays:
  """Runs ``function(mask[L, S] or None, *[L, H])`` for each row and head of bool[B, L, S], f[B, N,
  .]."""
  heads = jax.vmap(function, (None, *[0] * len(arrays)))
  return jax.vmap(heads)(mask, *arrays)


def for_each_query_head(x: jax.Array, heads: int) -> jax.Array:
  """Keys or values f[B, K, S, H] -> f[B, N, S, H]."""
  return x if x.shape[1] == heads else x.repeat(heads // x.shape[1], axis=1)


def of_each_group(gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """f[B, N, S, H] -> f[B, K, S, H], the sum over the queries of a group."""
  if gradient.shape == shape:
    return gradient
  groups = gradient.reshape(*shape[:2], -1, *shape[2:])
  return groups.astype(jnp.float32).sum(axis=2).astype(gradient.dtype)


def head_forward(mask: jax.Array | None, q: jax.Array, k: jax.Array, v: jax.Array,
                 over_row: Callable[..., jax.Array]) -> Arrays:
  """One head: (out f[L, H], logsumexp f32[L, 1])."""
  weights = scores(mask, q, k)
  largest = over_row(jnp.maximum, weights)
  weights = jnp.exp(weights - largest)
  total = over_row(jnp.add, weights)
  out = product(weights.astype(v.dtype), v) / total
  logsumexp = largest + jnp.log(total)
  if mask is not None:
    # A query that sees nothing: zeros here, and weights of exp(NEGATIVE) = 0 in the gradient.
    sees = mask.any(axis=-1, keepdims=True)
    out, logsumexp = jnp.where(sees, out, 0), jnp.where(sees, logsumexp, 0)
  return out.astype(q.dtype), logsumexp


def _head_backward(mask, q, k, v, out, logsumexp, gradient):
  """One head: gradients with respect to q, k and v."""
  gradient = gradient.astype(q.dtype)
  weights = jnp.exp(scores(mask, q, k) - logsumexp)
  along = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1, keepdims=True)
  by_scores = (weights * (product(gradient, v.T) - along)).astype(q.dtype)
  by_q = product(by_scores, k)
  by_k = product(by_scores.T, q)
  by_v = product(weights.astype(q.dtype).T, gradient)
  return by_q.astype(q.dtype), by_k.astype(k.dtype), by_v.astype(v.dtype)


def scores(mask: jax.Array | None, q: jax.Array, k: jax.Array) -> jax.Array:
  """``q k^T`` f32[L, S], ``NEGATIVE`` where the mask bool[L, S] is False."""
  found = product(q, k.T)
  return found if mask is None else jnp.where(mask, found, NEGATIVE)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
  """``a b``, summed in fp32."""
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)
