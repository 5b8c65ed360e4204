"""What every multimodal language model offers: one interface, whatever its vision tower."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.types import Prompt
from jaxgen.core.types import Vision
from jaxgen.models.encoders.causal_lm import KVCache
from jaxgen.models.encoders.causal_lm import place_images


class MultimodalLM(nn.Module):
  """A vision tower and a causal language model; ``__call__`` runs everything.

  A family gives ``encode_images``, ``sees`` and ``setup``, which makes ``self.text``, a
  ``CausalLM``, and beside it only what ``encode_images`` reads. Its config has ``text``, a
  ``CausalLMConfig``, and ``vision``, whose ``patch_dim`` is Dp, and ``patches_per_image``, of the
  smallest image.

  Attributes:
    config: sizes.
    dtype: of the computation.
  """

  config: Any
  dtype: jnp.dtype = jnp.float32

  def __call__(self, prompt: Prompt) -> jax.Array:
    """Logits f32[B, S, V] of a packed prompt."""
    embeddings = self.embed_prompt(prompt)  # [B, S, D]
    return self.logits(self.decode(embeddings, prompt.positions, prompt.segments))

  def image_tokens(self, prompt: Prompt) -> jax.Array:
    """f[B, T, D]: the images of every row, encoded here or before; see ``encode_images``."""
    return prompt.patches.astype(self.dtype) if prompt.encoded else self.encode_images(prompt)

  def encode_images(self, prompt: Prompt) -> jax.Array:
    """Encodes the images of every row, each on its own.

    Args:
      prompt: its patches f[B, P, Dp], P > 0, and what the family reads of their positions and
        image numbers.

    Returns:
      f[B, T, D] with T = P / merge^2, images in the order of their patches and the tokens of an
      image in reading order: what ``image_index`` counts.
    """
    raise NotImplementedError

  @property
  def sees(self) -> Vision:
    """Geometry of the images that it reads."""
    raise NotImplementedError

  def embed(self, tokens: jax.Array, image_tokens: jax.Array, image_index: jax.Array) -> jax.Array:
    """Token embeddings with image tokens in their places.

    Args:
      tokens: i32[B, S].
      image_tokens: f[B, T, D].
      image_index: i32[B, S], which image token of the row stands here, -1 for text.

    Returns:
      f[B, S, D].
    """
    return place_images(self.text.embed(tokens), image_tokens, image_index)

  def embed_text(self, tokens: jax.Array) -> jax.Array:
    """i32[B, S] -> f[B, S, D], without images."""
    return self.text.embed(tokens)

  def embed_prompt(self, prompt: Prompt) -> jax.Array:
    """f[B, S, D]: the embedded tokens and images of a prompt, which may have none (P = 0)."""
    if prompt.patches.shape[1] == 0:
      return self.embed_text(prompt.tokens)
    return self.embed(prompt.tokens, self.image_tokens(prompt), prompt.image_index)

  def decode(self, embeddings: jax.Array, positions: jax.Array, segments: jax.Array,
             all_layers: bool = False) -> jax.Array:
    """Runs the language model; see ``CausalLM.decode``.

    Args:
      embeddings: f[B, S, D].
      positions: i32[B, S, 3].
      segments: i32[B, S], 0 = padding.
      all_layers: return every layer.

    Returns:
      f[B, S, D] after the final norm, or f[layers + 1, B, S, D], the embeddings first.
    """
    return self.text.decode(embeddings, positions, segments, all_layers)

  def extend(self, embeddings: jax.Array, positions: jax.Array, segments: jax.Array,
             cache: KVCache, slot: jax.Array | int) -> tuple[jax.Array, KVCache]:
    """``decode`` of new tokens behind the cached ones; see ``CausalLM.extend``."""
    return self.text.extend(embeddings, positions, segments, cache, slot)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """f[B, S, D] after the final norm -> f32[B, S, V]."""
    return self.text.logits(hidden)

  @nn.nowrap
  def example(self) -> tuple[Prompt]:
    """The smallest arguments of ``__call__``: one token and one image."""
    vision = self.config.vision
    count = vision.patches_per_image
    token, patch = (jnp.zeros((1, length), jnp.int32) for length in (1, count))
    return (Prompt(
        tokens=token, positions=jnp.zeros((1, 1, 3), jnp.int32), segments=token + 1,
        loss_mask=jnp.zeros((1, 1)), image_index=token, query_index=token - 1,
        shown=token == 0, state_positions=jnp.zeros((1, 1, 3), jnp.int32),
        patches=jnp.zeros((1, count, vision.patch_dim)),
        patch_positions=jnp.zeros((1, count, 2), jnp.int32), patch_images=patch + 1,
        maskable=patch > 0),)
