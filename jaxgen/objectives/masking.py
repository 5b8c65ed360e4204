"""Masked image modelling: hide most of what the model is shown of its own target (L089)."""

import jax
import jax.numpy as jnp


def mask_image_tokens(
    rng: jax.Array, tokens: jax.Array, may_mask: jax.Array, ratio: float) -> jax.Array:
  """Zeroes each image token with probability ``ratio``; the sequence keeps its length.

  Args:
    rng: key; the same key gives the same mask.
    tokens: f[B, T, D], image tokens after the projector (A18).
    may_mask: bool[B, T], True for tokens of images that are their own target.
    ratio: probability of being masked.

  Returns:
    f[B, T, D].
  """
  keep = jax.random.bernoulli(rng, 1 - ratio, may_mask.shape) | ~may_mask
  return jnp.where(keep[..., None], tokens, 0)
