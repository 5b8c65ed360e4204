"""The straight path between data and noise, in the one time convention of the project.

``t`` is 0 at the data and 1 at the noise: x_t = (1 - t) x0 + t eps, and the velocity that the
denoiser predicts is v = dx_t/dt = eps - x0 (IOMM section 3.1, L090).
"""

import jax


def interpolate(x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
  """The point at time ``t`` (broadcastable) between ``x0`` and ``noise``."""
  return (1 - t) * x0 + t * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
  """The constant velocity of the path."""
  return noise - x0
