"""Solvers of the probability-flow ODE ``dx/dt = v(x, t)``, where x_t = (1 - t) x0 + t eps."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.types import Array
from jaxgen.sampling import unipc as second_order
from jaxgen.sampling.guidance import Velocity

Carry = tuple[Array, ...]  # what goes from step to step; the first one is x


@dataclasses.dataclass(frozen=True)
class Solver:
  """A solver as a table of coefficients and one step, which all steps share.

  So every image of a batch may be at levels of its own: its row of the table is data.

  Attributes:
    table: falling levels f32[steps + 1] -> f32[steps, K], what a step must know of its levels. The
      first column is t. A step of zeros is harmless: what it leaves is finite.
    begin: noise f32[B, L, C] -> what goes from step to step.
    step: ``(velocity: x -> v, carry, row f32[K] or f32[B, L, K]) -> carry``.
  """

  table: Callable[[np.ndarray], np.ndarray]
  begin: Callable[[Array], Carry]
  step: Callable[[Callable[[Array], Array], Carry, Array], Carry]

  def __call__(self, velocity: Velocity, noise: Array, sigmas: np.ndarray) -> Array:
    """Integrates over levels f32[steps + 1] that fall to 0; see ``integrate``."""
    return self.integrate(velocity, noise, self.table(sigmas))

  def integrate(self, velocity: Velocity, noise: Array, table: Array) -> Array:
    """Integrates from noise to the image.

    Args:
      velocity: ``(x f32[B, L, C], t f32 scalar) -> v f32[B, L, C]``.
      noise: f32[B, L, C], x at the first level.
      table: f32[steps, K], of the levels.

    Returns:
      f32[B, L, C], x at the last level.
    """
    def step(carry, row):
      return self.step(lambda x: velocity(x, row[0]), carry, row), None

    return jax.lax.scan(step, self.begin(noise), table)[0][0]


def _euler_table(sigmas: np.ndarray) -> np.ndarray:
  """f32[steps, 2]: t and the level that follows."""
  return np.stack([sigmas[:-1], sigmas[1:]], axis=1)


def _euler_step(velocity: Callable[[Array], Array], carry: Carry, row: Array) -> Carry:
  x, = carry
  return (x + (row[..., 1:2] - row[..., :1]) * velocity(x),)


# First order: x moves along its velocity to the next level.
euler = Solver(_euler_table, lambda noise: (noise.astype(jnp.float32),), _euler_step)
unipc = Solver(second_order.table, second_order.begin, second_order.step)

SOLVERS = {'euler': euler, 'unipc': unipc}
