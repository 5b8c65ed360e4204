"""Sampling of training timesteps, in fp32."""

import jax
import jax.numpy as jnp

from jaxgen.core.types import Array


def shift_time(t: Array, shift: float) -> Array:
  """SD3's resolution shift ``s t / (1 + (s - 1) t)`` (L138): s > 1 moves mass to the noise."""
  return shift * t / (1 + (shift - 1) * t)


def sample_timesteps(
    keys: jax.Array,
    *,
    density: str = 'logit_normal',
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 1.0,
) -> jax.Array:
  """Draws timesteps in [0, 1].

  Args:
    keys: key[...], one per timestep, usually [B, G].
    density: ``uniform`` or ``logit_normal``.
    mean, std: mean and standard deviation of logit(t), for ``logit_normal``.
    shift: resolution shift, applied once after the draw.

  Returns:
    f32[...], with the shape of ``keys``.
  """
  if density == 'uniform':
    draw = lambda key: jax.random.uniform(key, (), jnp.float32)
  else:
    assert density == 'logit_normal', density
    draw = lambda key: jax.nn.sigmoid(mean + std * jax.random.normal(key, (), jnp.float32))
  return shift_time(jax.vmap(draw)(keys.ravel()).reshape(keys.shape), shift)
