"""HunyuanVideo's MMDiT: a text refiner, then dual- and single-stream blocks over packed rows.

Equals diffusers' ``HunyuanVideoTransformer3DModel`` (tests/models/test_hunyuan_video.py). Beyond
it, images and frames of one sample may have any sizes and any positions, several samples share a
row, and any token may be a clean condition, not those of the first frame only.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models.denoisers.base import Denoiser
from jaxgen.models.denoisers.blocks import BlockConfig
from jaxgen.models.denoisers.blocks import SegmentVectors
from jaxgen.models.denoisers.blocks import check_clean_time
from jaxgen.models.denoisers.blocks import dual_then_single
from jaxgen.models.denoisers.blocks import modulation_inputs
from jaxgen.models.denoisers.blocks import project_out
from jaxgen.models.layers import attention
from jaxgen.models.layers.heads import QKV
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.modulation import Modulation
from jaxgen.models.layers.norms import LayerNorm
from jaxgen.models.layers.remat import stack
from jaxgen.models.layers.rope import angles
from jaxgen.models.layers.segments import segment_one_hot
from jaxgen.sharding.partition import constrained

REFINER_RATIO = 4  # hidden units of the refiner's MLP to its width, whatever the blocks have


@dataclasses.dataclass(frozen=True)
class HunyuanVideoConfig:
  """Sizes of the model; the defaults are the published ones.

  Attributes:
    in_channels: C, channels of a latent token (after patchify). Where conditions are joined to
      the latents as further channels (latent concat), it counts these too: 4 (2 * 16 + 1).
    out_channels: channels of the velocity of a token.
    cond_dim: channels of the conditioning states.
    pooled_dim: channels of the pooled prompt vector.
    width: D.
    heads: N; D / N channels each.
    double_blocks: blocks with separate weights for conditioning and image.
    single_blocks: blocks over the joint sequence.
    refiner_blocks: blocks over the conditioning alone.
    mlp_ratio: F / D.
    axes_dims: head channels that rotate with (t, h, w); they sum to D / N.
    theta: base of the RoPE frequencies.
    guidance_embed: takes a guidance scale as input.
    clean_time: which time modulates clean tokens: ``same`` as the noisy ones of their segment,
      or ``zero``, without guidance (token replacement).
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  in_channels: int = 64
  out_channels: int = 64
  cond_dim: int = 4096
  pooled_dim: int = 768
  width: int = 3072
  heads: int = 24
  double_blocks: int = 20
  single_blocks: int = 40
  refiner_blocks: int = 2
  mlp_ratio: float = 4.0
  axes_dims: tuple[int, ...] = (16, 56, 56)
  theta: float = 256.0
  guidance_embed: bool = True
  clean_time: str = 'same'
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    self.blocks.check(self.axes_dims)
    check_clean_time(self.clean_time)
    if self.pooled_dim < 1:
      raise user_error('config.model.denoiser.pooled_dim', self.pooled_dim,
                       'must be positive; this model always has a pooled prompt vector')

  @property
  def blocks(self) -> BlockConfig:
    """Sizes of every dual- and single-stream block."""
    return BlockConfig(self.width, self.heads, int(self.width * self.mlp_ratio),
                       remat=self.remat, unroll=self.unroll)


class HunyuanVideo(Denoiser):
  """A ``Denoiser``; see there. Zeros as positions of the states, as published, rotate nothing."""

  config: HunyuanVideoConfig

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
    """See ``Denoiser``; returns f32[B, L, out_channels]."""
    self.check_vectors(conditioning)
    config, dtype = self.config, self.dtype
    vectors, modulation_ids = modulation_inputs(
        config.width, config.clean_time, t, visual, conditioning)  # [B, V, D], [B, L]
    text = TokenRefiner(config, dtype, name='refiner')(
        conditioning.states, t, conditioning.segments)  # [B, S, D]
    image = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(
        x_t)  # [B, L, D]

    positions = jnp.concatenate([conditioning.positions, visual.positions], axis=1)
    segments = jnp.concatenate([conditioning.segments, visual.segments], axis=1)  # [B, S + L]
    modulation_ids = jnp.concatenate([conditioning.segments, modulation_ids], axis=1)
    cos, sin = angles(positions, config.axes_dims, config.theta)  # [B, S + L, H / 2]
    image = dual_then_single(config.blocks, dtype, config.double_blocks, config.single_blocks,
                             text, image, vectors, modulation_ids, cos, sin, segments)
    # The last norm takes one time per segment, that of the noisy tokens.
    return project_out(image, config.out_channels, vectors[:, :t.shape[1]], visual.segments, dtype)


class TokenRefiner(nn.Module):
  """Conditioning states to text tokens, by self-attention gated by time and the mean state."""

  config: HunyuanVideoConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, states: jax.Array, t: jax.Array, segments: jax.Array) -> jax.Array:
    """Maps f[B, S, cond_dim], f32[B, G] and i32[B, S] to f[B, S, D]."""
    config, dtype = self.config, self.dtype
    means = segment_means(states, segments, t.shape[1])  # [B, G, cond_dim]
    vectors = SegmentVectors(config.width, name='vectors')(t, None, means)  # [B, G, D]
    text = Linear((config.width,), ('cond', 'embed'), dtype=dtype, name='text_in')(
        states)  # [B, S, D]
    return stack(RefinerBlock, config.blocks, dtype, config.refiner_blocks, 'blocks')(
        text, vectors, segments)


class RefinerBlock(nn.Module):
  """Self-attention and MLP over the text tokens of each segment, both gated."""

  config: BlockConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, vectors, segments):
    """Maps f[B, S, D] to the same, modulated by f32[B, G, D]; scanned, hence the None."""
    config, dtype = self.config, self.dtype
    gate, mlp_gate = Modulation(2, dtype, name='modulation')(vectors, segments)
    normed = LayerNorm(axis='embed', dtype=dtype, name='attention_norm')(x)
    q, k, v = QKV(config.heads, config.head_dim, norm=False, dtype=dtype,
                  name='attention')(normed)  # [B, S, N, H]
    attended = attention.attend(q, k, v, q_segments=segments, kv_segments=segments)
    projection = Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=dtype,
                        name='attention_out')
    x = x + gate * projection(attended)
    normed = LayerNorm(axis='embed', dtype=dtype, name='mlp_norm')(x)
    mlp = MLP(REFINER_RATIO * config.width, nn.silu, dtype=dtype, name='mlp')
    x = x + mlp_gate * mlp(normed)
    return constrained(x, ('rows', 'tokens', 'act_embed')), None


def segment_means(states: jax.Array, segments: jax.Array, groups: int) -> jax.Array:
  """f32[B, G, D], the mean of f[B, S, D] over each segment; zeros for an empty segment."""
  member = segment_one_hot(segments, groups)
  total = jnp.einsum('BSG,BSD->BGD', member, states.astype(jnp.float32),
                     precision=jax.lax.Precision.HIGHEST)
  return total / jnp.maximum(member.sum(axis=1), 1)[..., None]
