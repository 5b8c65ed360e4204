"""FLUX-shaped MMDiT: double-stream, then single-stream blocks over packed rows.

Equals diffusers' ``FluxTransformer2DModel`` on rows of one segment (tests/models/test_mmdit.py).
Beyond it, a row may pack several samples, each with its own timestep, prompt and modulation.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models.denoisers.base import Denoiser
from jaxgen.models.denoisers.blocks import BlockConfig
from jaxgen.models.denoisers.blocks import SegmentVectors
from jaxgen.models.denoisers.blocks import dual_then_single
from jaxgen.models.denoisers.blocks import project_out
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.rope import angles


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
  """Sizes of an MMDiT; the defaults are FLUX.1-dev's without guidance and pooled vector.

  Attributes:
    in_channels: C, channels of a latent token (after patchify).
    cond_dim: channels of the conditioning states.
    width: D.
    heads: N; D / N channels each.
    double_blocks: blocks with separate weights for conditioning and image.
    single_blocks: blocks over the joint sequence.
    mlp_ratio: F / D.
    axes_dims: head channels that rotate with (t, h, w); they sum to D / N.
    theta: base of the RoPE frequencies.
    guidance_embed: takes a guidance scale as input (guidance-distilled models).
    pooled_dim: channels of a pooled prompt vector; 0 = none.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  in_channels: int = 64
  cond_dim: int = 4096
  width: int = 3072
  heads: int = 24
  double_blocks: int = 19
  single_blocks: int = 38
  mlp_ratio: float = 4.0
  axes_dims: tuple[int, ...] = (16, 56, 56)
  theta: float = 10_000.0
  guidance_embed: bool = False
  pooled_dim: int = 0
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    self.blocks.check(self.axes_dims)

  @property
  def blocks(self) -> BlockConfig:
    """Sizes of every block."""
    return BlockConfig(self.width, self.heads, int(self.width * self.mlp_ratio),
                       remat=self.remat, unroll=self.unroll)


class MMDiT(Denoiser):
  """A ``Denoiser``; see there. Clean tokens have the time of their segment."""

  config: MMDiTConfig

  @property
  def pooled_dim(self) -> int:
    """See ``Denoiser``."""
    return self.config.pooled_dim

  @property
  def takes_guidance(self) -> bool:
    """See ``Denoiser``."""
    return self.config.guidance_embed

  @nn.compact
  def __call__(self, x_t: jax.Array, t: jax.Array, visual: Visual, conditioning: Conditioning
               ) -> jax.Array:
    """See ``Denoiser``; returns f32[B, L, C]."""
    self.check_vectors(conditioning)
    config, dtype = self.config, self.dtype
    vectors = SegmentVectors(config.width, name='vectors')(
        t, conditioning.guidance, conditioning.pooled)  # [B, G, D]
    image = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(
        x_t)  # [B, L, D]
    text = Linear((config.width,), ('cond', 'embed'), dtype=dtype, name='text_in')(
        conditioning.states)  # [B, S, D]

    positions = jnp.concatenate([conditioning.positions, visual.positions], axis=1)
    segments = jnp.concatenate([conditioning.segments, visual.segments], axis=1)  # [B, S + L]
    cos, sin = angles(positions, config.axes_dims, config.theta)  # [B, S + L, H / 2]
    image = dual_then_single(config.blocks, dtype, config.double_blocks, config.single_blocks,
                             text, image, vectors, segments, cos, sin, segments)
    return project_out(image, config.in_channels, vectors, visual.segments, dtype)
