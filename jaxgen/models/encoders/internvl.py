"""InternVL: vision tower, pixel shuffle, projector and language model in one.

Equals transformers' InternVLForConditionalGeneration (tests/models/test_internvl.py) except
that rows may pack several samples and that image tokens are placed by ``image_index``.
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
from jaxgen.models.encoders.vision import VisionConfig
from jaxgen.models.encoders.vision import VisionTower
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.mlp import gelu_exact
from jaxgen.models.layers.norms import LayerNorm

# InternVL3-2B: InternViT-300M and Qwen2.5-1.5B (L085, L143). Frozen, it still lies between the
# loss and the adapter, hence the remat.
INTERNVL3_2B: dict[str, Any] = dict(
    family='internvl',
    vision=dict(image_size=448, patch_size=14, width=1024, layers=24, heads=16, mlp=4096),
    text=dict(vocab=151674, width=1536, layers=28, heads=12, kv_heads=2, mlp=8960,
              remat='full'),
)


@dataclasses.dataclass(frozen=True)
class InternVLConfig:
  """Sizes of the model.

  Attributes:
    vision: the tower.
    text: the language model.
    downsample: side of an image in image tokens over its side in patches.
    image_token_id: placeholder of image tokens in the vocabulary; kept for PyTorch, as this
      model places image tokens by index.
  """

  vision: VisionConfig
  text: CausalLMConfig
  downsample: float = 0.5
  image_token_id: int = 151667

  def __post_init__(self):
    if self.downsample not in (1.0, 0.5, 0.25):
      raise user_error('config.model.mllm.downsample', self.downsample, 'use 1.0, 0.5 or 0.25')
    if self.vision.grid % self.shuffle:
      raise user_error('config.model.mllm.vision.image_size', self.vision.image_size,
                       f'must be a multiple of {self.shuffle} patches of '
                       f'{self.vision.patch_size} pixels')

  @property
  def shuffle(self) -> int:
    """Patches along one side of an image token."""
    return round(1 / self.downsample)

  @property
  def tokens_per_image(self) -> int:
    """Prompt tokens that an image occupies."""
    return (self.vision.grid // self.shuffle)**2


class InternVL(nn.Module):
  """The whole model; its methods are the stages, ``__call__`` runs them all."""

  config: InternVLConfig
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    c = self.config
    self.vision = VisionTower(c.vision, self.dtype)
    self.projector = Projector(c.text.width, self.dtype)
    self.text = CausalLM(c.text, self.dtype)

  def __call__(self, tokens, positions, segments, image_index, patches) -> jax.Array:
    """Logits f32[B, S, V] of a packed prompt; arguments as in ``Prompt``, positions i32[B, S]."""
    embeddings = self.embed(tokens, self.image_tokens(patches), image_index)
    return self.logits(self.decode(embeddings, positions, segments))

  def image_tokens(self, patches: jax.Array) -> jax.Array:
    """Image tokens of every image of a row.

    Args:
      patches: f[B, P, Dp], whole images in raster order one after the other.

    Returns:
      f[B, T, D], ``tokens_per_image`` for each image.
    """
    c = self.config
    rows, count, dim = patches.shape
    grid, r = c.vision.grid, c.shuffle
    assert count % grid**2 == 0, (patches.shape, grid)
    features = self.vision(patches.reshape(-1, grid**2, dim))[:, 1:]
    side = grid // r
    # Pixel shuffle: the r x r patches under one token are laid side by side as channels.
    features = features.reshape(-1, side, r, side, r, c.vision.width).swapaxes(2, 3)
    features = features.reshape(-1, side**2, r * r * c.vision.width)
    return self.projector(features).reshape(rows, -1, c.text.width)

  def embed_prompt(self, prompt: Prompt) -> jax.Array:
    """f[B, S, D]: the embedded tokens and images of a prompt, which may have none."""
    if prompt.patches.shape[1] == 0:
      return self.embed_text(prompt.tokens)
    return self.embed(prompt.tokens, self.image_tokens(prompt.patches), prompt.image_index)

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


class Projector(nn.Module):
  """Vision features to token embeddings: norm, linear, GELU, linear."""

  width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """f[M, n, r r D'] -> f[M, n, D]."""
    x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm')(x)
    x = Linear((self.width,), ('cond', 'mlp'), dtype=self.dtype, name='up')(x)
    return Linear((self.width,), ('mlp', 'embed'), dtype=self.dtype, name='down')(gelu_exact(x))
