"""Depthwise 3 x 3 convolution of packed tokens, whose places in their images are data."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.layers.linear import zeros

SIDE = 3
OFFSETS = tuple((h, w) for h in (-1, 0, 1) for w in (-1, 0, 1))
PIECE = 64  # tokens that a CPU works on at a time, all in its cache


def neighbours(positions: jax.Array, segments: jax.Array) -> jax.Array:
  """Where in the row the neighbours of every token are.

  Tokens of one image share segment and t; no two of them share (h, w).

  Args:
    positions: i32[B, L, 3], (t, h, w).
    segments: i32[B, L], 0 = padding, which is never a neighbour.

  Returns:
    i32[B, L, 9], indices of the tokens above left, above, ..., below right, in reading order with
    the token itself in the middle; L where there is none.
  """
  length = segments.shape[1]
  places = jnp.concatenate([segments[..., None], positions], axis=-1)

  def neighbour(offset):
    wanted = places + jnp.array((0, 0, *offset), places.dtype)
    # L x L comparisons, once for all layers; they end in the argmax and are never stored.
    same = (wanted[:, :, None] == places[:, None]).all(axis=-1) & (segments != 0)[:, None]
    return jnp.where(same.any(axis=-1), jnp.argmax(same, axis=-1), length)

  return jnp.stack([neighbour(offset) for offset in OFFSETS], axis=-1).astype(jnp.int32)


class NeighbourConv(nn.Module):
  """Each channel becomes a weighted sum of itself in the 3 x 3 tokens around; zeros outside.

  Attributes:
    dtype: of the result; sums are fp32.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, indices: jax.Array) -> jax.Array:
    """Maps f[B, L, F] to the same; ``indices`` are those of ``neighbours``."""
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal', in_axis=(0, 1),
                                            out_axis=(), batch_axis=2)
    kernel = self.param('kernel', nn.with_logical_partitioning(init, ('patch', 'patch', 'mlp')),
                        (SIDE, SIDE, x.shape[-1]), jnp.float32)
    bias = self.param('bias', nn.with_logical_partitioning(zeros, ('mlp',)), x.shape[-1:],
                      jnp.float32)
    out = neighbour_sum(x, kernel.reshape(len(OFFSETS), -1), indices)
    return (out + bias).astype(self.dtype)


@jax.custom_vjp
def neighbour_sum(x: jax.Array, kernel: jax.Array, indices: jax.Array) -> jax.Array:
  """``sum_k kernel[k] * x[indices[..., k]]``: f32[B, L, F] of f[B, L, F], f[9, F], i32[B, L, 9].

  To be a neighbour is mutual, so its own gradient gathers where XLA would scatter. CPUs take a few
  tokens at a time: left alone, XLA computes what x comes from nine times over, or writes all that
  is gathered down.
  """
  return jax.lax.platform_dependent(x, kernel, indices, cpu=_sum_in_pieces, default=_sum)


def _forward(x, kernel, indices):
  return neighbour_sum(x, kernel, indices), (x, kernel, indices)


def _backward(residuals, gradient):
  x, kernel, indices = residuals
  by_x = neighbour_sum(gradient, kernel[::-1], indices)
  by_kernel = jax.lax.platform_dependent(
      x, gradient, indices, cpu=_by_kernel_in_pieces, default=_by_kernel)
  return by_x.astype(x.dtype), by_kernel, None


neighbour_sum.defvjp(_forward, _backward)


def _sum(x, kernel, indices):
  return sum(_at(x, indices[..., k]) * kernel[k] for k in range(len(OFFSETS)))


def _sum_in_pieces(x, kernel, indices):
  sums = jax.lax.map(lambda piece: _sum(x, kernel, piece), _pieces(indices, x.shape[1]))
  return jnp.moveaxis(sums, 0, 1).reshape(len(x), -1, x.shape[-1])[:, :x.shape[1]]


def _by_kernel(x, gradient, indices):
  """f32[9, F]."""
  return jnp.stack([jnp.sum(_at(x, indices[..., k]) * gradient, axis=(0, 1))
                    for k in range(len(OFFSETS))])


def _by_kernel_in_pieces(x, gradient, indices):
  def add(total, piece):
    return total + _by_kernel(x, *piece), None

  pieces = _pieces(gradient, 0), _pieces(indices, x.shape[1])
  return jax.lax.scan(add, jnp.zeros((len(OFFSETS), x.shape[-1])), pieces)[0]


def _pieces(x, fill):
  """[B, L, c] -> [n, B, PIECE, c], the last one filled up."""
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % PIECE), (0, 0)), constant_values=fill)
  return jnp.moveaxis(x.reshape(len(x), -1, PIECE, x.shape[-1]), 1, 0)


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
  """``x[b, index[b]]`` in fp32, zeros where the index is L."""
  gathered = jax.vmap(lambda row, one: row.at[one].get(mode='fill', fill_value=0))(x, index)
  return gathered.astype(jnp.float32)
