"""Solvers of the probability-flow ODE ``dx/dt = v(x, t)``, where x_t = (1 - t) x0 + t eps."""

import jax
import jax.numpy as jnp

from jaxgen.core.types import Array
from jaxgen.sampling.guidance import Velocity
from jaxgen.sampling.unipc import unipc


def euler(velocity: Velocity, noise: Array, sigmas: Array) -> Array:
  """Integrates from noise to the image by first-order steps.

  Args:
    velocity: ``(x f32[B, L, C], t f32 scalar) -> v f32[B, L, C]``.
    noise: f32[B, L, C], x at the first level.
    sigmas: f32[steps + 1], falling levels.

  Returns:
    f32[B, L, C], x at the last level.
  """
  def step(x, levels):
    t, following = levels
    return x + (following - t) * velocity(x, t), None

  levels = jnp.stack([sigmas[:-1], sigmas[1:]], axis=1)
  return jax.lax.scan(step, noise.astype(jnp.float32), levels)[0]


# Name -> (velocity, noise, sigmas) -> image.
SOLVERS = {'euler': euler, 'unipc': unipc}
