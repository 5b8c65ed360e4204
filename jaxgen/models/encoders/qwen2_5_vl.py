"""Qwen2.5-VL: vision tower and language model with three-axis positions in one.

Equals transformers' Qwen2_5_VLForConditionalGeneration on images
(tests/models/test_qwen2_5_vl.py), except that rows may pack several samples and that image
tokens are placed by ``image_index``.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Prompt
from jaxgen.models.encoders.causal_lm import CausalLM
from jaxgen.models.encoders.causal_lm import CausalLMConfig
from jaxgen.models.encoders.causal_lm import KVCache
from jaxgen.models.encoders.causal_lm import place_images
from jaxgen.models.encoders.qwen_vision import QwenVision
from jaxgen.models.encoders.qwen_vision import QwenVisionConfig

# Qwen2.5-VL-7B (L051, L108).
QWEN2_5_VL_7B: dict[str, Any] = dict(
    family='qwen2_5_vl',
    vision=dict(width=1280, layers=32, heads=16, mlp=3420, remat='full'),
    text=dict(vocab=152064, width=3584, layers=28, heads=28, kv_heads=4, mlp=18944,
              rope_sections=(16, 24, 24), remat='full'),
)


@dataclasses.dataclass(frozen=True)
class Qwen2_5VLConfig:
  """Sizes of the model; the token ids are kept for PyTorch, as images are placed by index.

  Attributes:
    vision: the tower.
    text: the language model.
    image_token_id: placeholder of an image token in the vocabulary.
    video_token_id: placeholder of a video token.
    vision_start_id: stands before an image.
    vision_end_id: stands behind it.
  """

  vision: QwenVisionConfig
  text: CausalLMConfig
  image_token_id: int = 151655
  video_token_id: int = 151656
  vision_start_id: int = 151652
  vision_end_id: int = 151653

  def __post_init__(self):
    if len(self.text.rope_sections) != 3:
      raise user_error('config.model.mllm.text.rope_sections', self.text.rope_sections,
                       'must have three numbers, for (t, h, w)')


class Qwen2_5VL(nn.Module):
  """The whole model; its methods are the stages, ``__call__`` runs them all."""

  config: Qwen2_5VLConfig
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    c = self.config
    self.vision = QwenVision(c.vision, c.text.width, self.dtype)
    self.text = CausalLM(c.text, self.dtype)

  def __call__(self, prompt: Prompt) -> jax.Array:
    """Logits f32[B, S, V] of a packed prompt."""
    return self.logits(self.decode(self.embed_prompt(prompt), prompt.positions, prompt.segments))

  def embed_prompt(self, prompt: Prompt) -> jax.Array:
    """f[B, S, D]: the embedded tokens and images of a prompt, which may have none."""
    if prompt.patches.shape[1] == 0:
      return self.embed_text(prompt.tokens)
    images = self.image_tokens(prompt.patches, prompt.patch_positions, prompt.patch_segments)
    return self.embed(prompt.tokens, images, prompt.image_index)

  def image_tokens(self, patches: jax.Array, positions: jax.Array, segments: jax.Array
                   ) -> jax.Array:
    """f[B, P, Dp] -> f[B, P / merge^2, D]; see ``QwenVision``."""
    return self.vision(patches, positions, segments)

  def embed(self, tokens: jax.Array, image_tokens: jax.Array, image_index: jax.Array) -> jax.Array:
    """Token embeddings f[B, S, D] with image tokens in their places; see ``place_images``."""
    return place_images(self.text.embed(tokens), image_tokens, image_index)

  def decode(self, embeddings: jax.Array, positions: jax.Array, segments: jax.Array,
             all_layers: bool = False) -> jax.Array:
    """f[B, S, D] -> f[B, S, D], or f[layers + 1, B, S, D]; see ``CausalLM.decode``."""
    return self.text.decode(embeddings, positions, segments, all_layers)

  def extend(self, embeddings, positions, segments, cache, slot) -> tuple[jax.Array, KVCache]:
    """``decode`` of new tokens behind a cache; see ``CausalLM.extend``."""
    return self.text.extend(embeddings, positions, segments, cache, slot)

  def embed_text(self, tokens: jax.Array) -> jax.Array:
    """i32[B, S] -> f[B, S, D], without images."""
    return self.text.embed(tokens)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """f[B, S, D] -> f32[B, S, V]."""
    return self.text.logits(hidden)
