"""FLUX-shaped MMDiT: double-stream, then single-stream blocks over packed rows.

Equals diffusers' ``FluxTransformer2DModel`` on rows of one segment (tests/models/test_mmdit.py).
Beyond it, a row may pack several samples, each with its own timestep, prompt and modulation.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    unroll: blocks in a turn of their loop; see ``layers.remat``.
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


class MMDiT(nn.Module):
  """Velocity of noisy latent tokens, given time and conditioning states.

  Attributes:
    config: sizes.
    dtype: of the computation; time path, norms, softmax and RoPE stay fp32.
  """

  config: MMDiTConfig
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
      guidance: jax.Array | None = None,
      pooled: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts the velocity; a token sees latents and states of its own segment only.

    Args:
      latents: f[B, L, C], x_t.
      t: f32[B, G], time of each segment in [0, 1].
      positions: i32[B, L, 3], (t, h, w) of each token.
      segments: i32[B, L], 0 = padding.
      states: f[B, S, cond_dim].
      state_positions: i32[B, S, 3].
      state_segments: i32[B, S].
      guidance: f32[B, G], given if and only if ``guidance_embed``.
      pooled: f[B, G, pooled_dim], given if and only if ``pooled_dim``.

    Returns:
      f32[B, L, C]; what stands at padding has no meaning.
    """
    config, dtype = self.config, self.dtype
    assert (guidance is not None) == config.guidance_embed, 'guidance goes with guidance_embed'
    assert (pooled is not None) == bool(config.pooled_dim), 'pooled goes with pooled_dim'
    vectors = SegmentVectors(config.width, name='vectors')(t, guidance, pooled)
    image = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(latents)
    text = Linear((config.width,), ('cond', 'embed'), dtype=dtype, name='text_in')(states)

    cos, sin = angles(jnp.concatenate([state_positions, positions], axis=1),
                      config.axes_dims, config.theta)
    joint_segments = jnp.concatenate([state_segments, segments], axis=1)
    image = dual_then_single(config.blocks, dtype, config.double_blocks, config.single_blocks,
                             text, image, vectors, joint_segments, cos, sin, joint_segments)
    return project_out(image, config.in_channels, vectors, segments, dtype)
