"""CLIP and SigLIP: vectors of images and of texts in one space.

Checked against transformers' classes in tests/models/test_towers.py.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.encoders.clip_text import ClipText
from jaxgen.models.encoders.clip_text import TextConfig
from jaxgen.models.encoders.image_tower import ImageTower
from jaxgen.models.encoders.image_tower import ImageTowerConfig
from jaxgen.models.encoders.image_tower import Patches
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import zeros

_CLIP_VISION: dict[str, Any] = dict(
    image_size=224, norm_eps=1e-5, patch_bias=False, pre_norm=True, activation='quick_gelu')
# openai/clip-vit-base-patch32, openai/clip-vit-large-patch14, google/siglip2-base-patch16-224 and
# google/siglip2-base-patch16-naflex.
CLIP_B32: dict[str, Any] = dict(
    family='clip', projection=512,
    image=dict(projection=512, vision=dict(
        _CLIP_VISION, patch_size=32, width=768, layers=12, heads=12, mlp=3072)),
    text=dict(vocab=49408, width=512, layers=12, heads=8, mlp=2048))
CLIP_L14: dict[str, Any] = dict(
    family='clip', projection=768,
    image=dict(projection=768, vision=dict(
        _CLIP_VISION, patch_size=14, width=1024, layers=24, heads=16, mlp=4096)),
    text=dict(vocab=49408, width=768, layers=12, heads=12, mlp=3072))
SIGLIP2_B16: dict[str, Any] = dict(
    family='siglip', projection=768, has_bias=True,
    image=dict(pool='attention', vision=dict(
        image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp=3072,
        class_token=False, activation='gelu_pytorch_tanh')),
    text=dict(vocab=256000, width=768, layers=12, heads=12, mlp=3072, positions=64,
              activation='gelu_pytorch_tanh', norm_eps=1e-6, causal=False))
SIGLIP2_B16_NAFLEX: dict[str, Any] = dict(
    SIGLIP2_B16, family='siglip2', image=dict(SIGLIP2_B16['image'], naflex=True, vision=dict(
        SIGLIP2_B16['image']['vision'], image_size=256)))


@dataclasses.dataclass(frozen=True)
class ImageTextConfig:
  """Sizes of both towers.

  Attributes:
    image: of the image tower.
    text: of the text tower.
    projection: E, channels that the vector of a text is projected to: those of an image.
    has_bias: the projection and the logits have biases.
  """

  image: ImageTowerConfig
  text: TextConfig
  projection: int
  has_bias: bool = False


class ImageTextTower(nn.Module):
  """Images and texts to vectors, whose cosine says how well they fit."""

  config: ImageTextConfig
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    c = self.config
    self.image_tower = ImageTower(c.image, self.dtype)
    self.text_tower = ClipText(c.text, self.dtype)
    self.text_projection = Linear((c.projection,), ('embed', 'cond'), use_bias=c.has_bias,
                                  dtype=self.dtype)
    self.logit_scale = self.param('logit_scale', zeros, (), jnp.float32)
    if c.has_bias:
      self.logit_bias = self.param('logit_bias', zeros, (), jnp.float32)

  @nn.nowrap
  def example(self) -> tuple[jax.Array | Patches, jax.Array]:
    """The smallest arguments of ``__call__``: an image of one patch and a text of one token."""
    return *ImageTower(self.config.image).example(), jnp.zeros((1, 1), jnp.int32)

  def __call__(self, pixels: jax.Array | Patches, tokens: jax.Array) -> jax.Array:
    """How well images and texts fit.

    Args:
      pixels: f[B, H, W, 3], or ``Patches``; see ``ImageTower``.
      tokens: i32[T, S], see ``ClipText``.

    Returns:
      f[B, T]: logits, scaled cosines.
    """
    images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True)
                     for x in (self.image(pixels), self.text(tokens)))
    logits = jnp.einsum('BE,TE->BT', images, texts) * jnp.exp(self.logit_scale)
    return logits + self.logit_bias if self.config.has_bias else logits

  def image(self, pixels: jax.Array | Patches) -> jax.Array:
    """f[B, H, W, 3], or ``Patches`` -> f[B, E]."""
    return self.image_tower(pixels)

  def text(self, tokens: jax.Array) -> jax.Array:
    """i32[T, S] -> f[T, E]."""
    return self.text_projection(self.text_tower(tokens)[1])
