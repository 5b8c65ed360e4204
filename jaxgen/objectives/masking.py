"""Masked image modelling: masks most image tokens of a target that is its own condition (L089)."""

import jax
import jax.numpy as jnp


def mask_image_tokens(
    keys: jax.Array, tokens: jax.Array, may_mask: jax.Array, ratio: float) -> jax.Array:
  """Zeroes each image token with probability ``ratio``; the sequence keeps its length.

  Args:
    keys: key[B], one per row; the same key gives the same mask.
    tokens: f[B, T, D], image tokens after the projector (A18).
    may_mask: bool[B, T], True for tokens of images that are also the target.
    ratio: probability that a token is masked.

  Returns:
    f[B, T, D], the tokens with masked ones set to 0.
  """
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - ratio, may_mask.shape[1:]))
  keep = draw(keys) | ~may_mask  # [B, T]
  return jnp.where(keep[..., None], tokens, 0)
