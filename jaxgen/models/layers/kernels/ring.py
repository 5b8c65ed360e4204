"""Attention whose keys stay split over devices: they rotate around a ring (arXiv 2310.01889).

A kernel returns its logsumexp, so outputs over parts of the keys can be joined, and its backward
pass, given the joined logsumexp, returns the gradients with respect to its own part of the keys. No
device ever holds more keys than its own and those in flight; the next ones are sent while attention
to the present ones is computed.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.models.layers.kernels.contract import Arrays
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility

UNSEEN = -1e30  # logarithm of the sum over no key; finite, so that two of them make no NaN


def around(kernel: Kernel, axes: Sequence[str]) -> Kernel:
  """The kernel for the queries of one device and the keys of all along some mesh axes.

  Args:
    kernel: for the queries and keys of one device each.
    axes: of the mesh; tokens lie along them in equal parts.
  """
  return Kernel(kernel.fits, functools.partial(_forward, kernel, axes),
                functools.partial(_backward, kernel, axes))


def _forward(kernel: Kernel, axes: Sequence[str], q: jax.Array, k: jax.Array, v: jax.Array,
             visibility: Visibility) -> Arrays:
  def part(keys):
    k, v, *of_keys = keys
    here = _of(visibility, of_keys)
    out, logsumexp = kernel.forward(q, k, v, here)
    sees = here.sees()
    if sees is not None:
      logsumexp = jnp.where(sees[:, None], logsumexp, UNSEEN)
    return out.astype(jnp.float32), logsumexp

  def step(carry, _):
    keys, joined = carry
    return (_passed_on(keys, axes), _join(joined, part(keys))), None

  keys = k, v, visibility.kv_segments, visibility.kv_positions
  carry = _passed_on(keys, axes), part(keys)
  (_, (out, logsumexp)), _ = jax.lax.scan(step, carry, length=jax.lax.axis_size(axes) - 1)
  return out.astype(q.dtype), jnp.where(logsumexp > UNSEEN / 2, logsumexp, 0)


def _backward(kernel: Kernel, axes: Sequence[str], q: jax.Array, k: jax.Array, v: jax.Array,
              visibility: Visibility, out: jax.Array, logsumexp: jax.Array, gradient: jax.Array
              ) -> Arrays:
  """The gradients of keys follow them one step behind, and end on the device that owns the keys."""
  def part(keys):
    k, v, *of_keys = keys
    by_q, *by_keys = kernel.backward(
        q, k, v, _of(visibility, of_keys), out, logsumexp, gradient)
    return jax.tree.map(lambda x: x.astype(jnp.float32), (by_q, by_keys))

  def step(carry, _):
    keys, by_q, by_keys = carry
    more_by_q, more_by_keys = part(keys)
    by_keys = jax.tree.map(jnp.add, _passed_on(by_keys, axes), more_by_keys)
    return (_passed_on(keys, axes), by_q + more_by_q, by_keys), None

  keys = k, v, visibility.kv_segments, visibility.kv_positions
  carry = _passed_on(keys, axes), *part(keys)
  (_, by_q, by_keys), _ = jax.lax.scan(step, carry, length=jax.lax.axis_size(axes) - 1)
  by_k, by_v = _passed_on(by_keys, axes)
  return by_q.astype(q.dtype), by_k.astype(k.dtype), by_v.astype(v.dtype)


def _of(visibility, of_keys):
  segments, positions = of_keys
  return visibility._replace(kv_segments=segments, kv_positions=positions)


def _passed_on(tree: Any, axes: Sequence[str]) -> Any:
  """Sends every array to the next device of the ring."""
  ways = jax.lax.axis_size(axes)
  pairs = [(source, (source + 1) % ways) for source in range(ways)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, pairs), tree)


def _join(one: Arrays, other: Arrays) -> Arrays:
  """Attention to both parts of the keys, from (out f32[B, N, L, H], f32[B, N, L]) of each."""
  logsumexp = jnp.logaddexp(one[1], other[1])
  out = sum(out * jnp.exp(log - logsumexp)[..., None] for out, log in (one, other))
  return out, logsumexp
