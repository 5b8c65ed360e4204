"""The vision transformer: InternViT, and with the fields of ``ViTConfig`` those of CLIP, SigLIP and
DINO.

Checked against transformers' classes in tests/models/test_internvl.py and test_towers.py.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.models.layers.encoder import EncoderBlock
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.mlp import ACTIVATIONS
from jaxgen.models.layers.norms import LayerNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import scanned


CUBIC = -0.75  # of the kernel that torch interpolates with


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """Sizes of InternViT.

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
    unroll: blocks per scan iteration; see ``layers.remat``.
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

  # What other towers have a choice about, see ``ViTConfig``.
  class_token: ClassVar[bool] = True
  patch_bias: ClassVar[bool] = True
  pre_norm: ClassVar[bool] = False
  activation: ClassVar[str] = 'gelu'

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


@dataclasses.dataclass(frozen=True)
class ViTConfig(VisionConfig):
  """Sizes of a vision transformer.

  Attributes:
    class_token: a learned token stands before the patches.
    patch_bias: adds a bias to embedded patches.
    pre_norm: layer norm before the first block.
    activation: of the MLPs, a key of ``ACTIVATIONS``.
  """

  layer_scale: float = 0.0
  class_token: bool = True
  patch_bias: bool = True
  pre_norm: bool = False
  activation: str = 'gelu'

  def __post_init__(self):
    super().__post_init__()
    if self.activation not in ACTIVATIONS:
      raise user_error('activation of the vision tower', self.activation,
                       f'must be one of {sorted(ACTIVATIONS)}')


class VisionTower(nn.Module):
  """Patches to features; every image is encoded on its own."""

  config: VisionConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, patches: jax.Array, grid: tuple[int, int] | None = None) -> jax.Array:
    """Encodes images.

    Args:
      patches: f[M, n, Dp], raster order, each patch flattened as (colour, row, column).
      grid: rows and columns of patches, n = rows columns; those of ``image_size`` unless given.
        Positions are interpolated for others.

    Returns:
      f[M, 1 + n, D]: the class token, if there is one, then the patches; no final norm.
    """
    c = self.config
    images, count, _ = patches.shape
    grid = grid or (c.grid, c.grid)
    assert count == grid[0] * grid[1], (patches.shape, grid)
    x = Linear((c.width,), ('patch', 'embed'), use_bias=c.patch_bias, kernel_init=normal(0.02),
               dtype=self.dtype, name='patch_embed')(patches)  # [M, n, D]
    if c.class_token:
      cls = self.param('cls', nn.with_logical_partitioning(normal(0.02), ('embed',)),
                       (c.width,), jnp.float32)
      cls = jnp.broadcast_to(cls.astype(self.dtype), (images, 1, c.width))
      x = jnp.concatenate([cls, x], axis=1)  # [M, 1 + n, D]
    positions = self.param(
        'positions', nn.with_logical_partitioning(normal(0.02), ('patch', 'embed')),
        (c.class_token + c.patches_per_image, c.width), jnp.float32)
    if grid != (c.grid, c.grid):
      positions = self._interpolated(positions, grid)
    x = x + positions.astype(self.dtype)
    if c.pre_norm:
      x = LayerNorm(epsilon=c.norm_eps, dtype=self.dtype, name='pre_norm')(x)
    return scanned(EncoderBlock, c, c.layers)(
        c.heads, c.mlp, ACTIVATIONS[c.activation], qkv_bias=c.qkv_bias, qk_norm=c.qk_norm,
        norm_eps=c.norm_eps, layer_scale=c.layer_scale, dtype=self.dtype, name='layers')(x, None)[0]

  def _interpolated(self, positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """f[.. + grid^2, D] -> f[.. + rows columns, D]; the class token's position stays."""
    c = self.config
    head, square = jnp.split(positions, [int(c.class_token)])
    square = square.reshape(c.grid, c.grid, c.width)
    rows, columns = (cubic_weights(c.grid, side) for side in grid)
    resized = jnp.einsum('yh,xw,hwD->yxD', rows, columns, square, precision='highest')
    return jnp.concatenate([head, resized.reshape(-1, c.width)])


def cubic_weights(old: int, new: int) -> np.ndarray:
  """f32[new, old]: bicubic interpolation along one axis as torch does it, pixels being areas and
  the border repeated; it does not widen as it shrinks."""
  places = (np.arange(new) + 0.5) * old / new - 0.5
  first, weights = np.floor(places).astype(int), np.zeros((new, old))
  for offset in (-1, 0, 1, 2):
    x = np.abs(places - (first + offset))
    near = (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
    far = CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
    np.add.at(weights, (np.arange(new), np.clip(first + offset, 0, old - 1)),
              np.where(x <= 1, near, far))
  return weights.astype(np.float32)
