"""Qwen2.5-VL's vision tower: images of any size in one row, most layers within windows."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.mlp import GatedMLP
from jaxgen.models.layers.mlp import gelu_exact
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import scanned
from jaxgen.models.layers.rope import angles
from jaxgen.models.layers.rope import apply_rope
from jaxgen.models.layers.windows import attend_windows
from jaxgen.sharding.partition import constrained

THETA = 10_000.0
NORM_EPS = 1e-6
# More windows than this along a side of an image would make numbers collide.
MAX_WINDOWS = 2**10


@dataclasses.dataclass(frozen=True)
class QwenVisionConfig:
  """Sizes of the tower.

  Attributes:
    width: D.
    layers: number of blocks.
    heads: N.
    mlp: F.
    patch_size: side of a patch in pixels.
    frames: frames of a patch; an image is repeated that often.
    merge: side of an image token in patches.
    window: side of an attention window in pixels.
    full_attention: numbers of the layers that see the whole image.
    remat: as in ``CausalLMConfig``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  width: int = 1280
  layers: int = 32
  heads: int = 16
  mlp: int = 3420
  patch_size: int = 14
  frames: int = 2
  merge: int = 2
  window: int = 112
  full_attention: tuple[int, ...] = (7, 15, 23, 31)
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    where = 'config.model.mllm.vision'
    if self.width % (4 * self.heads):
      raise user_error(f'{where}.width', self.width,
                       f'must be a multiple of 4 heads = {4 * self.heads}')
    if self.window % (self.patch_size * self.merge):
      raise user_error(f'{where}.window', self.window, 'must be a multiple of patch_size * merge '
                       f'= {self.patch_size * self.merge}')
    if not set(self.full_attention) <= set(range(self.layers)):
      raise user_error(f'{where}.full_attention', self.full_attention,
                       f'must name layers from 0 to {self.layers - 1}')
    check_scan(f'{where}.', self)

  @property
  def patch_dim(self) -> int:
    """Dp: values of one patch, colour slowest, then frames."""
    return 3 * self.frames * self.patch_size**2

  @property
  def patches_per_image(self) -> int:
    """Patches of the smallest image, of one token."""
    return self.merge**2

  @property
  def window_side(self) -> int:
    """Patches along one side of a window."""
    return self.window // self.patch_size


class QwenVision(nn.Module):
  """Patches to image tokens; every image is encoded on its own.

  Attributes:
    config: sizes.
    out_width: channels of an image token.
    dtype: of the computation.
  """

  config: QwenVisionConfig
  out_width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, patches: jax.Array, positions: jax.Array, images: jax.Array) -> jax.Array:
    """Encodes the images of every row.

    Args:
      patches: f[B, P, Dp], images one after the other. The merge^2 patches of an image token
        stand side by side, and the tokens of an image in reading order.
      positions: i32[B, P, 2], (h, w) of each patch within its image, in patches.
      images: i32[B, P], number of the image within the row from 1 on, 0 = padding.

    Returns:
      f[B, P / merge^2, out_width] in the same order.
    """
    c = self.config
    group = c.merge**2
    assert patches.shape[1] % group == 0, (patches.shape, c)
    windows = window_numbers(positions, images, c.window_side)
    # A stable sort by window; the patches of a token lie in one window and stay together.
    first = windows[:, ::group]  # [B, T]
    order = jnp.argsort(jnp.where(first == 0, np.iinfo(np.int32).max, first), axis=1)

    def sort(x):
      grouped = x.reshape(x.shape[0], -1, group, *x.shape[2:])
      index = order.reshape(*order.shape, *(1,) * (grouped.ndim - 2))
      return jnp.take_along_axis(grouped, index, axis=1).reshape(x.shape)

    x = Linear((c.width,), ('patch', 'embed'), use_bias=False, kernel_init=normal(0.02),
               dtype=self.dtype, name='patch_embed')(sort(patches))  # [B, P, D]
    axis = c.width // c.heads // 2
    rotation = angles(sort(positions), (axis, axis), THETA)
    full = jnp.isin(jnp.arange(c.layers), np.array(c.full_attention, np.int32))
    stack = scanned(QwenVisionBlock, c, c.layers, in_axes=(0,) + (nn.broadcast,) * 3)
    x, _ = stack(c, self.dtype, name='layers')(x, full, rotation, sort(images), sort(windows))

    x = RMSNorm(NORM_EPS, dtype=self.dtype, name='norm')(x)
    x = x.reshape(*order.shape, -1)  # [B, T, merge^2 D]
    x = Linear((x.shape[-1],), ('cond', 'mlp'), dtype=self.dtype, name='merger_up')(x)
    x = Linear((self.out_width,), ('mlp', 'embed'), activation=gelu_exact, dtype=self.dtype,
               name='merger_down')(x)  # [B, T, out_width]
    return jnp.take_along_axis(x, jnp.argsort(order, axis=1)[..., None], axis=1)


def window_numbers(positions: jax.Array, images: jax.Array, side: int) -> jax.Array:
  """i32[B, P]: a number for every window of ``side`` patches of every image, 0 = padding."""
  h, w = positions[..., 0] // side, positions[..., 1] // side
  return jnp.where(images > 0, (images * MAX_WINDOWS + h) * MAX_WINDOWS + w, 0)


class QwenVisionBlock(nn.Module):
  """RMS norm and attention, RMS norm and gated MLP."""

  config: QwenVisionConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, full, rotation, images, windows):
    """Maps f[B, P, D] to the same; ``full`` bool[] says whether to look beyond the window."""
    c = self.config
    x = constrained(x, ('rows', 'tokens', 'act_embed'))
    normed = RMSNorm(NORM_EPS, dtype=self.dtype, name='attention_norm')(x)
    q, k, v = (Linear((c.heads, c.width // c.heads), ('embed', 'heads', 'head_dim'),
                      dtype=self.dtype, name=name)(normed) for name in 'qkv')
    q, k = (apply_rope(y, *rotation, interleaved=False) for y in (q, k))
    out = jax.lax.cond(
        full,
        lambda q, k, v: attend(q, k, v, q_segments=images, kv_segments=images),
        lambda q, k, v: attend_windows(q, k, v, windows, c.window_side**2), q, k, v)
    x = x + Linear((c.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=self.dtype,
                   name='attention_out')(out)
    normed = RMSNorm(NORM_EPS, dtype=self.dtype, name='mlp_norm')(x)
    return x + GatedMLP(c.mlp, use_bias=True, dtype=self.dtype, name='mlp')(normed), None
