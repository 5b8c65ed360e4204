"""Classifier-free guidance: one velocity from a conditional and an unconditional one.

The convention is ``u + s (c - u)``, so that scale 1 is the plain conditional model. Papers that
write ``c + g (c - u)`` mean the same with s = 1 + g.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.core.types import Array
from jaxgen.core.types import Conditioning

Velocity = Callable[[Array, Array], Array]


def guided_velocity(velocity: Callable[[Array, Array, Conditioning], Array],
                    conditional: Conditioning, unconditional: Conditioning | None,
                    scale: Array) -> Velocity:
  """Closes a denoiser over its conditions.

  Args:
    velocity: ``(x_t f[B, L, C], t f32[B], conditioning) -> v f32[B, L, C]`` for any B.
    conditional: conditioning of the B rows.
    unconditional: conditioning of the empty prompt, one row, shared by all; None runs the
      conditional model alone, one forward for each step instead of two.
    scale: f32 scalar s.

  Returns:
    ``(x_t f[B, L, C], t f32 scalar) -> v f32[B, L, C]``.
  """
  if unconditional is None:
    return lambda x, t: velocity(x, jnp.full(x.shape[:1], t), conditional)

  def guided(x, t):
    both = jax.tree.map(_interleave, conditional, unconditional)
    doubled = jnp.repeat(x, 2, axis=0)
    pair = velocity(doubled, jnp.full(doubled.shape[:1], t), both)
    cond, uncond = pair[0::2], pair[1::2]
    return uncond + scale * (cond - uncond)

  return guided


def _interleave(rows: Array, shared: Array) -> Array:
  """Puts the shared row behind each row, so that both stay on the device of their image."""
  shared = jnp.broadcast_to(shared, rows.shape)
  return jnp.stack([rows, shared], axis=1).reshape(2 * rows.shape[0], *rows.shape[1:])
