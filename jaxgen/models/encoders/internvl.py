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
from jaxgen.core.types import Vision
from jaxgen.models.encoders.base import MultimodalLM
from jaxgen.models.encoders.causal_lm import CausalLM
from jaxgen.models.encoders.causal_lm import CausalLMConfig
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


class InternVL(MultimodalLM):
  """The whole model; reads patches as whole square images in raster order, one after another."""

  config: InternVLConfig

  def setup(self):
    c = self.config
    self.vision = VisionTower(c.vision, self.dtype)
    self.projector = Projector(c.text.width, self.dtype)
    self.text = CausalLM(c.text, self.dtype)

  @property
  def sees(self) -> Vision:
    """Squares of one size."""
    tower = self.config.vision
    return Vision('square', tower.patch_size, self.config.shuffle, tower.image_size)

  def encode_images(self, prompt: Prompt) -> jax.Array:
    """f[B, P / shuffle^2, D] of the images of every row, ``tokens_per_image`` for each."""
    c = self.config
    rows, count, dim = prompt.patches.shape
    grid, r = c.vision.grid, c.shuffle
    assert count % grid**2 == 0, (prompt.patches.shape, grid)
    images = prompt.patches.reshape(-1, grid**2, dim)  # [M, grid^2, Dp]
    features = self.vision(images)[:, 1:]  # [M, grid^2, D'], without the class token
    side = grid // r
    # Pixel shuffle: the r x r patches under one token are laid side by side as channels.
    features = features.reshape(-1, side, r, side, r, c.vision.width).swapaxes(2, 3)
    features = features.reshape(-1, side**2, r * r * c.vision.width)
    return self.projector(features).reshape(rows, -1, c.text.width)  # [B, T, D]


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
