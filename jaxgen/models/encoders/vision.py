"""The vision transformer: InternViT, and with the fields of ``ViTConfig`` those of CLIP, SigLIP and
DINO.

Checked against transformers' classes in tests/models/test_internvl.py and test_towers.py.
"""

import dataclasses
from collections.abc import Callable
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


# The free parameter of the cubic kernel that torch interpolates with, and antialiases with.
CUBIC, ANTIALIASED_CUBIC = -0.75, -0.5


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
  registers: ClassVar[int] = 0
  resize: ClassVar[str] = 'cubic'

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
    registers: learned tokens without positions between the class token and the patches.
    resize: how positions are interpolated for another grid, a key of ``RESIZES``.
  """

  layer_scale: float = 0.0
  class_token: bool = True
  patch_bias: bool = True
  pre_norm: bool = False
  activation: str = 'gelu'
  registers: int = 0
  resize: str = 'cubic'

  def __post_init__(self):
    super().__post_init__()
    if self.registers < 0:
      raise user_error('registers of the vision tower', self.registers, 'must be 0 or more')
    if self.resize not in RESIZES:
      raise user_error('resize of the vision tower', self.resize,
                       f'must be one of {sorted(RESIZES)}')
    if self.activation not in ACTIVATIONS:
      raise user_error('activation of the vision tower', self.activation,
                       f'must be one of {sorted(ACTIVATIONS)}')


class VisionTower(nn.Module):
  """Patches to features; every image is encoded on its own."""

  config: VisionConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, patches: jax.Array, grid: tuple[int, int] | jax.Array | None = None
               ) -> jax.Array:
    """Encodes images.

    Args:
      patches: f[M, n, Dp], raster order, each patch flattened as (colour, row, column).
      grid: rows and columns of patches, n = rows columns; those of ``image_size`` unless given.
        Positions are interpolated for others. As i32[M, 2] every image has its own, and what stands
        behind its patches is padding; for towers without other tokens.

    Returns:
      f[M, 1 + R + n, D]: the class token, if there is one, R registers, then the patches; no final
      norm.
    """
    c = self.config
    images, count, _ = patches.shape
    grid = (c.grid, c.grid) if grid is None else grid
    if isinstance(grid, tuple):
      assert count == grid[0] * grid[1], (patches.shape, grid)
      segments = None
    else:
      assert not c.class_token and not c.registers, c
      segments = filled(grid, count)
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
    if segments is not None:
      positions = self._interpolated_by_image(positions, grid, count)
    elif grid != (c.grid, c.grid):
      positions = self._interpolated(positions, grid)
    x = x + positions.astype(self.dtype)
    if c.registers:
      registers = self.param(
          'registers', nn.with_logical_partitioning(normal(0.02), ('queries', 'embed')),
          (c.registers, c.width), jnp.float32)
      registers = jnp.broadcast_to(registers.astype(self.dtype), (images, *registers.shape))
      head, x = jnp.split(x, [int(c.class_token)], axis=1)
      x = jnp.concatenate([head, registers, x], axis=1)  # [M, 1 + R + n, D]
    if c.pre_norm:
      x = LayerNorm(epsilon=c.norm_eps, dtype=self.dtype, name='pre_norm')(x)
    blocks = scanned(EncoderBlock, c, c.layers)(
        c.heads, c.mlp, ACTIVATIONS[c.activation], qkv_bias=c.qkv_bias, qk_norm=c.qk_norm,
        norm_eps=c.norm_eps, layer_scale=c.layer_scale, dtype=self.dtype, name='layers')
    return blocks(x, segments)[0]

  def _interpolated(self, positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """f[.. + grid^2, D] -> f[.. + rows columns, D]; the class token's position stays."""
    c = self.config
    head, square = jnp.split(positions, [int(c.class_token)])
    square = square.reshape(c.grid, c.grid, c.width)
    rows, columns = (RESIZES[c.resize](c.grid, side) for side in grid)
    resized = jnp.einsum('yh,xw,hwD->yxD', rows, columns, square, precision='highest')
    return jnp.concatenate([head, resized.reshape(-1, c.width)])

  def _interpolated_by_image(self, positions: jax.Array, grids: jax.Array, count: int
                             ) -> jax.Array:
    """f[grid^2, D] -> f[M, n, D], bilinear and antialiased; what padding gets has no meaning."""
    side, columns = self.config.grid, grids[:, 1:]
    places = jnp.arange(count)
    by_row = antialiased_linear_weights(side, grids[:, :1], places // columns)  # [M, n, h]
    by_column = antialiased_linear_weights(side, columns, places % columns)  # [M, n, w]
    # Multiplied before positions, so that nothing larger than [M, n, h w] is made.
    weights = jnp.einsum('Mnh,Mnw->Mnhw', by_row, by_column).reshape(*by_row.shape[:2], -1)
    return jnp.einsum('MnP,PD->MnD', weights, positions, precision='highest')


def filled(grids: jax.Array, count: int) -> jax.Array:
  """i32[M, 2], rows and columns of patches -> i32[M, count]: 1 of patches, 0 of the padding behind
  them."""
  return (jnp.arange(count) < jnp.prod(grids, axis=1, keepdims=True)).astype(jnp.int32)


def cubic_weights(old: int, new: int) -> np.ndarray:
  """f32[new, old]: bicubic interpolation along one axis as torch does it, pixels being areas and
  the border repeated; it does not widen as it shrinks."""
  places = (np.arange(new) + 0.5) * old / new - 0.5
  first, weights = np.floor(places).astype(int), np.zeros((new, old))
  for offset in (-1, 0, 1, 2):
    distances = np.abs(places - (first + offset))
    np.add.at(weights, (np.arange(new), np.clip(first + offset, 0, old - 1)),
              _cubic(distances, CUBIC))
  return weights.astype(np.float32)


def antialiased_cubic_weights(old: int, new: int) -> np.ndarray:
  """f32[new, old]: as torch does it with ``antialias``: the kernel widens as it shrinks, and what
  is beyond the border does not count."""
  places = (np.arange(new) + 0.5) * old / new
  distances = np.abs(places[:, None] - (np.arange(old) + 0.5)) / max(old / new, 1)
  weights = _cubic(distances, ANTIALIASED_CUBIC)
  return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def antialiased_linear_weights(old: int, new: jax.Array, places: jax.Array) -> jax.Array:
  """Likewise bilinear, for some of the new places alone.

  Args:
    old: size of the axis.
    new: i32[...], sizes that it is resized to.
    places: i32[...] within ``new``, which broadcasts against it.

  Returns:
    f32[..., old].
  """
  step = old / new  # [...]
  centres = ((places + 0.5) * step)[..., None]
  distances = jnp.abs(centres - (jnp.arange(old) + 0.5)) / jnp.maximum(step, 1)[..., None]
  weights = jnp.maximum(1 - distances, 0)
  total = weights.sum(axis=-1, keepdims=True)  # 0 of places beyond ``new``
  return weights / jnp.where(total > 0, total, 1)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' kernel at distances of 0 or more; ``a`` is its slope at 1."""
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0))


# f32[new, old] by the sizes of an axis.
RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {
    'cubic': cubic_weights, 'antialiased_cubic': antialiased_cubic_weights}
