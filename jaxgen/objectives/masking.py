"""Masked image modelling: hide most of what the model is shown of its own target (L089)."""

import jax
import jax.numpy as jnp


def mask_image_tokens(
    keys: jax.Array, tokens: jax.Array, may_mask: jax.Array, ratio: float) -> jax.Array:
  """Zeroes each image token with probability ``ratio``; the sequence keeps its length.

  Args:
    keys: key[B], one for each row; the same key gives the same mask.
    tokens: f[B, T, D], image tokens after the projector (A18).
    may_mask: bool[B, T], True for tokens of images that are their own target.
    ratio: probability of being masked.

  Returns:
    f[B, T, D].
  """
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - ratio, may_mask.shape[1:]))
  keep = draw(keys) | ~may_mask  # [B, T]
  return jnp.where(keep[..., None], tokens, 0)
