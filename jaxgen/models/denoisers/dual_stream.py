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

from jaxgen.models.denoisers.blocks import BlockConfig
from jaxgen.models.denoisers.blocks import DoubleBlock
from jaxgen.models.denoisers.blocks import check_clean_time
from jaxgen.models.denoisers.blocks import project_out
from jaxgen.models.denoisers.blocks import steering
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
    unroll: blocks in a turn of their loop; see ``layers.remat``.
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


class DualStream(nn.Module):
  """Velocity of noisy latent tokens, given clean ones, time and conditioning states.

  Attributes:
    config: sizes.
    dtype: of the computation; time path, norms, softmax and RoPE stay fp32.
  """

  config: DualStreamConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
      self,
      latents: jax.Array,
      t: jax.Array,
      positions: jax.Array,
      segments: jax.Array,
      states: jax.Array,
      state_positions: jax.Array,
      state_segments: jax.Array,
      *,
      pooled: jax.Array | None = None,
      clean: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts the velocity; a token sees latents and states of its own segment only.

    Args:
      latents: f[B, L, C]: x_t, or clean latents.
      t: f32[B, G], time of each segment in [0, 1].
      positions: i32[B, L, 3], (t, h, w) of each token; (h, w) within the grid where there is one.
      segments: i32[B, L], 0 = padding.
      states: f[B, S, cond_dim].
      state_positions: i32[B, S, 3].
      state_segments: i32[B, S].
      pooled: f[B, G, pooled_dim], given if and only if ``pooled_dim``.
      clean: bool[B, L], True for tokens that are conditions; None = no token is. Makes no
        difference where ``clean_time`` is ``same``.

    Returns:
      f32[B, L, out_channels]; has no meaning for padding and clean tokens.
    """
    config, dtype = self.config, self.dtype
    assert (pooled is not None) == bool(config.pooled_dim), 'pooled goes with pooled_dim'
    vectors, steers = steering(config.width, config.clean_time, t, segments, clean, None, pooled)
    image = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(latents)
    if config.position_grid:
      image += self._position_embeddings(positions).astype(dtype)
    if config.text_norm:
      states = RMSNorm(axis='cond', dtype=dtype, name='text_norm')(states)
    text = Linear((config.width,), ('cond', 'embed'), dtype=dtype, name='text_in')(states)

    cos = sin = None
    if config.axes_dims:
      cos, sin = angles(jnp.concatenate([state_positions, positions], axis=1),
                        config.axes_dims, config.theta)
    shared = (vectors, jnp.concatenate([state_segments, steers], axis=1), cos, sin,
              jnp.concatenate([state_segments, segments], axis=1))
    streams = stack(DoubleBlock, config.blocks, dtype, config.layers - config.text_ends,
                    'blocks')((text, image), *shared)
    if config.text_ends:
      last = recomputed(DoubleBlock, config.remat)
      streams, _ = last(config.blocks, dtype, text_ends=True, name='last_block')(streams, *shared)
    # The last norm knows one time per segment, that of the noisy tokens.
    return project_out(streams[1], config.out_channels, vectors[:, :t.shape[1]], segments, dtype)

  def _position_embeddings(self, positions: jax.Array) -> jax.Array:
    """f32[B, L, D], entries of the learned table at (h, w)."""
    side, names = self.config.position_grid, ('positions', 'positions', 'embed')
    table = self.param('position_table', nn.with_logical_partitioning(normal(0.02), names),
                       (side, side, self.config.width), jnp.float32)
    return table[positions[..., 1], positions[..., 2]]
