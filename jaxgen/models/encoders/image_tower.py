"""Towers that make one vector of an image: DINO, DINOv2, and the image half of CLIP and SigLIP.

Checked against transformers' classes in tests/models/test_towers.py.
"""

import dataclasses
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.encoders.vision import filled
from jaxgen.models.encoders.vision import VisionTower
from jaxgen.models.encoders.vision import ViTConfig
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.mlp import ACTIVATIONS
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.norms import LayerNorm

POOLS = ('class', 'attention')

# facebook/dino-vits16, facebook/dinov2-base and facebook/dinov2-with-registers-base.
DINO_S16: dict[str, Any] = dict(family='dino', vision=dict(
    image_size=224, patch_size=16, width=384, layers=12, heads=6, mlp=1536, norm_eps=1e-12))
DINOV2_B14: dict[str, Any] = dict(family='dinov2', vision=dict(
    image_size=518, patch_size=14, width=768, layers=12, heads=12, mlp=3072, layer_scale=1.0))
DINOV2_REGISTERS_B14: dict[str, Any] = dict(family='dinov2_registers', vision=dict(
    DINOV2_B14['vision'], registers=4, resize='antialiased_cubic'))


class Patches(NamedTuple):
  """Images of any aspects, as a NaFlex tower reads them.

  Attributes:
    values: f[B, n, 3 p^2], normalised patches in raster order, each flattened as (row, column,
      colour), then padding.
    grids: i32[B, 2], rows and columns of patches of each image, rows columns <= n.
  """

  values: jax.Array
  grids: jax.Array


@dataclasses.dataclass(frozen=True)
class ImageTowerConfig:
  """Sizes of the tower.

  Attributes:
    vision: the transformer.
    pool: the vector of an image is that of the class token (``class``), or what a learned query
      reads of all patches (``attention``).
    projection: E, channels that the vector is projected to; 0 = it stays as it is, E = D.
    naflex: images come as ``Patches``, whose positions are interpolated bilinearly; those of
      ``image_size`` are what was trained.
  """

  vision: ViTConfig
  pool: str = 'class'
  projection: int = 0
  naflex: bool = False

  def __post_init__(self):
    if self.pool not in POOLS:
      raise user_error('pool of the image tower', self.pool, f'must be one of {POOLS}')
    if self.pool == 'class' and not self.vision.class_token:
      raise user_error('pool of the image tower', self.pool, 'needs a class token')
    if self.naflex and (self.vision.class_token or self.vision.registers):
      raise user_error('naflex of the image tower', True, 'needs a tower of patches alone, without '
                       'class token and registers')


class ImageTower(nn.Module):
  """Images to vectors."""

  config: ImageTowerConfig
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def example(self) -> tuple[jax.Array | Patches]:
    """The smallest arguments of ``__call__``: one image of one patch."""
    side = self.config.vision.patch_size
    if self.config.naflex:
      return (Patches(jnp.zeros((1, 1, 3 * side**2)), jnp.ones((1, 2), jnp.int32)),)
    return (jnp.zeros((1, side, side, 3)),)

  @nn.nowrap
  def image(self, pixels: jax.Array | Patches) -> jax.Array:
    """As ``__call__``, under the name that ``ImageTextTower`` has for it."""
    return self(pixels)

  @nn.compact
  def __call__(self, pixels: jax.Array | Patches) -> jax.Array:
    """Encodes images.

    Args:
      pixels: f[B, H, W, 3], normalised as the tower was trained, H and W multiples of the patch
        size. Positions are interpolated unless both are ``image_size``. Of a NaFlex tower
        ``Patches``.

    Returns:
      f[B, E].
    """
    c = self.config
    if c.naflex:
      patches, grid = pixels
      segments = filled(grid, patches.shape[1])
    else:
      side = c.vision.patch_size
      patches = patchify(pixels, side)  # [B, n, 3 side^2]
      grid, segments = (pixels.shape[1] // side, pixels.shape[2] // side), None
    x = VisionTower(c.vision, self.dtype, name='vision')(patches, grid)  # [B, 1 + R + n, D]
    if c.pool == 'class':
      x = x[:, 0]
    x = LayerNorm(epsilon=c.vision.norm_eps, dtype=self.dtype, name='norm')(x)
    if c.pool == 'attention':
      x = AttentionPool(c.vision, self.dtype, name='pool')(x, segments)
    if c.projection:
      x = Linear((c.projection,), ('embed', 'cond'), use_bias=False, dtype=self.dtype,
                 name='projection')(x)
    return x


class AttentionPool(nn.Module):
  """One vector of all patches: a learned query's attention, then an MLP (SigLIP)."""

  config: ViTConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, segments: jax.Array | None) -> jax.Array:
    """f[B, n, D] -> f[B, D]; ``segments``: i32[B, n], 0 of padding, or None where there is none."""
    c, (images, _, width) = self.config, x.shape

    def project(name, x):
      return Linear((c.heads, width // c.heads), ('embed', 'heads', 'head_dim'),
                    dtype=self.dtype, name=name)(x)

    query = self.param('query', nn.with_logical_partitioning(normal(0.02), ('embed',)),
                       (width,), jnp.float32)
    query = jnp.broadcast_to(query, (images, 1, width))
    read = attend(project('q', query), project('k', x), project('v', x),
                  q_segments=None if segments is None else jnp.ones((images, 1), jnp.int32),
                  kv_segments=segments)  # [B, 1, N, H]
    x = Linear((width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=self.dtype,
               name='out')(read[:, 0])
    normed = LayerNorm(epsilon=c.norm_eps, dtype=self.dtype, name='norm')(x)
    return x + MLP(c.mlp, activation=ACTIVATIONS[c.activation], dtype=self.dtype,
                   name='mlp')(normed)
