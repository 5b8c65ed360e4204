"""The linear interpolant between data and noise, which fixes the project's time convention.

``t`` is 0 for data and 1 for noise: x_t = (1 - t) x0 + t eps. The denoiser predicts the velocity
v = dx_t/dt = eps - x0 (IOMM section 3.1, L090).
"""

import jax


def interpolate(x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
  """x_t, the interpolation of ``x0`` and ``noise`` at time ``t`` (broadcastable)."""
  return (1 - t) * x0 + t * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
  """The velocity dx_t/dt, constant along the path."""
  return noise - x0
