"""Dual-stream MMDiT: conditioning and image keep weights of their own in every block.

One architecture, two published shapes of it. With the defaults it equals diffusers'
``QwenImageTransformer2DModel``; with a table of absolute positions instead of the rotation, a
pooled prompt and a last block without conditioning output, ``SD3Transformer2DModel``
(tests/models/test_dual_stream.py). Beyond both, rows pack samples and positions are data.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models.denoisers.base import Denoiser
from jaxgen.models.denoisers.blocks import BlockConfig
from jaxgen.models.denoisers.blocks import DoubleBlock
from jaxgen.models.denoisers.blocks import check_clean_time
from jaxgen.models.denoisers.blocks import modulation_inputs
from jaxgen.models.denoisers.blocks import project_out
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import recomputed
from jaxgen.models.layers.remat import stack
from jaxgen.models.layers.rope import angles


@dataclasses.dataclass(frozen=True)
class DualStreamConfig:
  """Sizes of the model; the defaults are Qwen-Image's.

  Attributes:
    in_channels: C, channels of a latent token (after patchify).
    out_channels: channels of the velocity of a token.
    cond_dim: channels of the conditioning states.
    pooled_dim: channels of a pooled prompt vector; 0 = none.
    width: D.
    heads: N; D / N channels each.
    layers: blocks.
    mlp_ratio: F / D.
    axes_dims: head channels that rotate with (t, h, w); they sum to D / N. Empty = no rotation.
    theta: base of the RoPE frequencies.
    position_grid: side of a square table of position embeddings, which are added to the image
      tokens by their (h, w); 0 = none.
    text_norm: RMS norm of the conditioning states.
    qk_norm: RMS norm of queries and keys, per head.
    text_ends: the last block has no conditioning output, which nothing would read.
    clean_time: which time modulates clean tokens: ``same`` as the noisy ones of their segment,
      or ``zero``.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  in_channels: int = 64
  out_channels: int = 64
  cond_dim: int = 3584
  pooled_dim: int = 0
  width: int = 3072
  heads: int = 24
  layers: int = 60
  mlp_ratio: float = 4.0
  axes_dims: tuple[int, ...] = (16, 56, 56)
  theta: float = 10_000.0
  position_grid: int = 0
  text_norm: bool = True
  qk_norm: bool = True
  text_ends: bool = False
  clean_time: str = 'same'
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    self.blocks.check(self.axes_dims or None)
    check_clean_time(self.clean_time)

  @property
  def blocks(self) -> BlockConfig:
    """Sizes of every block."""
    return BlockConfig(self.width, self.heads, int(self.width * self.mlp_ratio), self.qk_norm,
                       self.remat, self.unroll)


class DualStream(Denoiser):
  """A ``Denoiser``; see there. With ``position_grid``, (h, w) of every token lie within it."""

  config: DualStreamConfig

  @property
  def pooled_dim(self) -> int:
    """See ``Denoiser``."""
    return self.config.pooled_dim

  @nn.compact
  def __call__(self, x_t: jax.Array, t: jax.Array, visual: Visual, conditioning: Conditioning
               ) -> jax.Array:
    """See ``Denoiser``; returns f32[B, L, out_channels]."""
    self.check_vectors(conditioning)
    config, dtype = self.config, self.dtype
    vectors, modulation_ids = modulation_inputs(
        config.width, config.clean_time, t, visual, conditioning)  # [B, V, D], [B, L]
    image = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(
        x_t)  # [B, L, D]
    if config.position_grid:
      image += self._position_embeddings(visual.positions).astype(dtype)
    states = conditioning.states
    if config.text_norm:
      states = RMSNorm(axis='cond', dtype=dtype, name='text_norm')(states)
    text = Linear((config.width,), ('cond', 'embed'), dtype=dtype, name='text_in')(
        states)  # [B, S, D]

    cos = sin = None
    if config.axes_dims:
      positions = jnp.concatenate([conditioning.positions, visual.positions], axis=1)
      cos, sin = angles(positions, config.axes_dims, config.theta)  # [B, S + L, H / 2]
    segments = jnp.concatenate([conditioning.segments, visual.segments], axis=1)  # [B, S + L]
    modulation_ids = jnp.concatenate([conditioning.segments, modulation_ids], axis=1)
    shared = vectors, modulation_ids, cos, sin, segments
    streams = stack(DoubleBlock, config.blocks, dtype, config.layers - config.text_ends,
                    'blocks')((text, image), *shared)
    if config.text_ends:
      last = recomputed(DoubleBlock, config.remat)
      streams, _ = last(config.blocks, dtype, text_ends=True, name='last_block')(streams, *shared)
    # The last norm takes one time per segment, that of the noisy tokens.
    return project_out(streams[1], config.out_channels, vectors[:, :t.shape[1]], visual.segments,
                       dtype)

  def _position_embeddings(self, positions: jax.Array) -> jax.Array:
    """f32[B, L, D], entries of the learned table at (h, w)."""
    side, names = self.config.position_grid, ('positions', 'positions', 'embed')
    table = self.param('position_table', nn.with_logical_partitioning(normal(0.02), names),
                       (side, side, self.config.width), jnp.float32)
    return table[positions[..., 1], positions[..., 2]]
