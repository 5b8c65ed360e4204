"""InternViT: the vision tower of InternVL, checked against transformers' InternVLVisionModel."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.encoder import EncoderBlock
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import scanned


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """Sizes of the tower.

  Attributes:
    image_size: side of the square image in pixels.
    patch_size: side of a patch in pixels.
    width: D.
    layers: number of blocks.
    heads: N.
    mlp: F.
    qkv_bias: biases on the three input projections of attention.
    qk_norm: RMS norm of queries and keys over all heads together.
    norm_eps: epsilon of every norm.
    layer_scale: initial value of the learned scale of each residual branch.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks in a turn of their loop; see ``layers.remat``.
  """

  image_size: int
  patch_size: int
  width: int
  layers: int
  heads: int
  mlp: int
  qkv_bias: bool = True
  qk_norm: bool = False
  norm_eps: float = 1e-6
  layer_scale: float = 0.1
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    if self.image_size % self.patch_size:
      raise user_error('config.model.mllm.vision.image_size', self.image_size,
                       f'must be a multiple of patch_size {self.patch_size}')
    if self.width % self.heads:
      raise user_error('config.model.mllm.vision.width', self.width,
                       f'must be a multiple of heads {self.heads}')
    check_scan('config.model.mllm.vision.', self)

  @property
  def grid(self) -> int:
    """Patches along one side of an image."""
    return self.image_size // self.patch_size

  @property
  def patch_dim(self) -> int:
    """Dp: values of one patch, colour slowest."""
    return 3 * self.patch_size**2

  @property
  def patches_per_image(self) -> int:
    """Patches of an image; all images have the same size."""
    return self.grid**2


class VisionTower(nn.Module):
  """Patches to features; every image is encoded on its own."""

  config: VisionConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, patches: jax.Array) -> jax.Array:
    """Encodes images.

    Args:
      patches: f[M, grid^2, Dp], raster order, each patch flattened as (colour, row, column).

    Returns:
      f[M, 1 + grid^2, D]: the class token, then the patches; no final norm (as InternVL reads).
    """
    c = self.config
    images, count, _ = patches.shape
    assert count == c.patches_per_image, (patches.shape, c)
    x = Linear((c.width,), ('patch', 'embed'), kernel_init=normal(0.02), dtype=self.dtype,
               name='patch_embed')(patches)  # [M, grid^2, D]
    cls = self.param('cls', nn.with_logical_partitioning(normal(0.02), ('embed',)),
                     (c.width,), jnp.float32)
    positions = self.param(
        'positions', nn.with_logical_partitioning(normal(0.02), ('patch', 'embed')),
        (1 + count, c.width), jnp.float32)
    cls = jnp.broadcast_to(cls.astype(self.dtype), (images, 1, c.width))
    # [M, 1 + grid^2, D]
    x = jnp.concatenate([cls, x], axis=1) + positions.astype(self.dtype)
    return scanned(EncoderBlock, c, c.layers)(
        c.heads, c.mlp, qkv_bias=c.qkv_bias, qk_norm=c.qk_norm, norm_eps=c.norm_eps,
        layer_scale=c.layer_scale, dtype=self.dtype, name='layers')(x, None)[0]
