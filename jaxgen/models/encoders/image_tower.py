"""Towers that make one vector of an image: DINO, DINOv2, and the image half of CLIP and SigLIP.

Checked against transformers' classes in tests/models/test_towers.py.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.encoders.vision import VisionTower
from jaxgen.models.encoders.vision import ViTConfig
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.mlp import ACTIVATIONS
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.norms import LayerNorm

POOLS = ('class', 'attention')

# facebook/dino-vits16 and facebook/dinov2-base.
DINO_S16: dict[str, Any] = dict(family='dino', vision=dict(
    image_size=224, patch_size=16, width=384, layers=12, heads=6, mlp=1536, norm_eps=1e-12))
DINOV2_B14: dict[str, Any] = dict(family='dinov2', vision=dict(
    image_size=518, patch_size=14, width=768, layers=12, heads=12, mlp=3072, layer_scale=1.0))


@dataclasses.dataclass(frozen=True)
class ImageTowerConfig:
  """Sizes of the tower.

  Attributes:
    vision: the transformer.
    pool: the vector of an image is that of the class token (``class``), or what a learned query
      reads of all patches (``attention``).
    projection: E, channels that the vector is projected to; 0 = it stays as it is, E = D.
  """

  vision: ViTConfig
  pool: str = 'class'
  projection: int = 0

  def __post_init__(self):
    if self.pool not in POOLS:
      raise user_error('pool of the image tower', self.pool, f'must be one of {POOLS}')
    if self.pool == 'class' and not self.vision.class_token:
      raise user_error('pool of the image tower', self.pool, 'needs a class token')


class ImageTower(nn.Module):
  """Images to vectors."""

  config: ImageTowerConfig
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def example(self) -> tuple[jax.Array]:
    """The smallest arguments of ``__call__``: one image of one patch."""
    side = self.config.vision.patch_size
    return (jnp.zeros((1, side, side, 3)),)

  @nn.nowrap
  def image(self, pixels: jax.Array) -> jax.Array:
    """As ``__call__``, under the name that ``ImageTextTower`` has for it."""
    return self(pixels)

  @nn.compact
  def __call__(self, pixels: jax.Array) -> jax.Array:
    """Encodes images.

    Args:
      pixels: f[B, H, W, 3], normalised as the tower was trained, H and W multiples of the patch
        size. Positions are interpolated unless both are ``image_size``.

    Returns:
      f[B, E].
    """
    c = self.config
    side = c.vision.patch_size
    patches = patchify(pixels, side)  # [B, n, 3 side^2]
    grid = pixels.shape[1] // side, pixels.shape[2] // side
    x = VisionTower(c.vision, self.dtype, name='vision')(patches, grid)  # [B, 1 + n, D]
    if c.pool == 'class':
      x = x[:, 0]
    x = LayerNorm(epsilon=c.vision.norm_eps, dtype=self.dtype, name='norm')(x)
    if c.pool == 'attention':
      x = AttentionPool(c.vision, self.dtype, name='pool')(x)
    if c.projection:
      x = Linear((c.projection,), ('embed', 'cond'), use_bias=False, dtype=self.dtype,
                 name='projection')(x)
    return x


class AttentionPool(nn.Module):
  """One vector of all patches: a learned query's attention, then an MLP (SigLIP)."""

  config: ViTConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """f[B, n, D] -> f[B, D]."""
    c, (images, _, width) = self.config, x.shape

    def project(name, x):
      return Linear((c.heads, width // c.heads), ('embed', 'heads', 'head_dim'),
                    dtype=self.dtype, name=name)(x)

    query = self.param('query', nn.with_logical_partitioning(normal(0.02), ('embed',)),
                       (width,), jnp.float32)
    query = jnp.broadcast_to(query, (images, 1, width))
    read = attend(project('q', query), project('k', x), project('v', x),
                  q_segments=None, kv_segments=None)  # [B, 1, N, H]
    x = Linear((width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=self.dtype,
               name='out')(read[:, 0])
    normed = LayerNorm(epsilon=c.norm_eps, dtype=self.dtype, name='norm')(x)
    return x + MLP(c.mlp, activation=ACTIVATIONS[c.activation], dtype=self.dtype,
                   name='mlp')(normed)
