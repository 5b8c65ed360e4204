"""Cosmos-Predict2.5: video transformer with AdaLN-LoRA and cross attention over packed rows.

Equals diffusers' ``CosmosTransformer3DModel`` with ``use_crossattn_projection`` on rows of one
segment (tests/models/test_cosmos.py). Beyond it, a row may pack several samples, and any token may
be a clean condition, not those of whole frames only (L110, L139).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models.denoisers.base import Denoiser
from jaxgen.models.denoisers.base import PATCH_AREA
from jaxgen.models.denoisers.base import check_patches
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.embeddings import timestep_embedding
from jaxgen.models.layers.heads import QKV
from jaxgen.models.layers.heads import rotary_attention
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.mlp import gelu_exact
from jaxgen.models.layers.mlp import projected_states
from jaxgen.models.layers.modulation import modulated_norm
from jaxgen.models.layers.modulation import per_token
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import stack
from jaxgen.models.layers.rope import angles
from jaxgen.sharding.partition import constrained

THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class CosmosConfig:
  """Sizes of a Cosmos denoiser; the defaults are Cosmos-Predict2.5-2B's.

  Attributes:
    in_channels: C, channels of a latent token (after patchify).
    cond_dim: channels of the conditioning states.
    text_dim: channels of what cross attention reads.
    cond_projection: a linear and GELU bring the states from ``cond_dim`` to ``text_dim``;
      without it the two are equal.
    width: D.
    heads: N; D / N channels each.
    layers: how many blocks.
    mlp_ratio: F / D.
    modulation_rank: inner channels of the low-rank modulation of each branch.
    rope_scale: extrapolation of the positions (t, h, w): a factor s multiplies the base of the
      frequencies by s^(d / (d - 2)), d the head channels of that axis.
    condition_mask: the model is told which tokens are clean conditions.
    clean_time: time of condition tokens; below zero = that of the noisy tokens of their segment,
      as the pre-trained 2B has it. The post-trained 2B, merged from EDM weights, has 1e-4: its
      ``conditional_frame_timestep`` of 0.1 counts in thousandths (L141).
    padding_mask: the weights have a channel that marks the padding of a picture; nothing is
      padded here, so it is always zero.
    qk_epsilon: of the norms of queries and keys: 1e-5 in diffusers, 1e-6 in NVIDIA's own code.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  in_channels: int = 64
  cond_dim: int = 100_352
  text_dim: int = 1024
  cond_projection: bool = True
  width: int = 2048
  heads: int = 16
  layers: int = 28
  mlp_ratio: float = 4.0
  modulation_rank: int = 256
  rope_scale: tuple[float, ...] = (1.0, 3.0, 3.0)
  condition_mask: bool = True
  clean_time: float = -1.0
  padding_mask: bool = True
  qk_epsilon: float = 1e-5
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    where = 'config.model.denoiser'
    if self.width % self.heads:
      raise user_error(f'{where}.heads', self.heads, f'must divide width = {self.width}')
    if self.head_dim % 2 or self.head_dim < 12:
      raise user_error(f'{where}.heads', self.heads,
                       f'width / heads = {self.head_dim} must be even and at least 12')
    check_patches(self.in_channels)
    if len(self.rope_scale) != 3:
      raise user_error(f'{where}.rope_scale', self.rope_scale, 'must be three numbers: t, h, w')
    if not self.cond_projection and self.cond_dim != self.text_dim:
      raise user_error(f'{where}.text_dim', self.text_dim,
                       f'must equal cond_dim = {self.cond_dim} without cond_projection')
    check_scan(f'{where}.', self)

  @property
  def head_dim(self) -> int:
    """H."""
    return self.width // self.heads

  @property
  def axes_dims(self) -> tuple[int, int, int]:
    """Head channels that rotate with (t, h, w): a third each for h and w, the rest for t."""
    side = self.head_dim // 6 * 2
    return (self.head_dim - 2 * side, side, side)

  @property
  def thetas(self) -> tuple[float, ...]:
    """Base of the frequencies of (t, h, w)."""
    return tuple(THETA * scale ** (dim / (dim - 2))
                 for scale, dim in zip(self.rope_scale, self.axes_dims))


class Cosmos(Denoiser):
  """A ``Denoiser``; see there. Positions of the states have no effect on cross attention."""

  config: CosmosConfig

  @nn.compact
  def __call__(self, x_t: jax.Array, t: jax.Array, visual: Visual, conditioning: Conditioning
               ) -> jax.Array:
    """See ``Denoiser``; returns f32[B, L, C]."""
    self.check_vectors(conditioning)
    config, dtype = self.config, self.dtype
    x = Linear((config.width,), ('latent', 'embed'), use_bias=False, dtype=dtype,
               name='image_in')(_with_masks(config, x_t, visual.is_clean))  # [B, L, D]
    states = conditioning.states.astype(dtype)
    if config.cond_projection:
      states = projected_states(states, config.text_dim, dtype)  # [B, S, E]
    times, modulation_ids = _token_times(config, t, visual)  # [B, V], [B, L]
    vectors, common = TimeVectors(config.width, name='time')(times)  # [B, V, D], [B, V, 3 D]
    cos, sin = angles(visual.positions, config.axes_dims, config.thetas)  # [B, L, H / 2]

    x = stack(CosmosBlock, config, dtype, config.layers, 'blocks')(
        x, vectors, common, modulation_ids, cos, sin, visual.segments, states,
        conditioning.segments)
    shift, scale = LowRankModulation(2, config.modulation_rank, dtype, name='final_modulation')(
        vectors, common, modulation_ids)
    velocity = Linear((config.in_channels,), ('embed', 'latent'), use_bias=False,
                      kernel_init=zeros, dtype=dtype, name='image_out')(
                          modulated_norm(x, shift, scale))
    return velocity.astype(jnp.float32)


class CosmosBlock(nn.Module):
  """Self-attention, cross attention and MLP, each behind its own low-rank modulation."""

  config: CosmosConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, vectors, common, modulation_ids, cos, sin, segments, states,
               state_segments):
    """Maps f[B, L, D] to the same; scanned, hence the None.

    Args:
      x: f[B, L, D].
      vectors: f32[B, V, D], features of each time.
      common: f32[B, V, 3 D], what all modulations share.
      modulation_ids: i32[B, L], the time of each token, 1 .. V; 0 = padding.
      cos: f32[B, L, H / 2]; ``sin`` alike.
      sin: see ``cos``.
      segments: i32[B, L], 0 = padding.
      states: f[B, S, text_dim].
      state_segments: i32[B, S].
    """
    config, dtype = self.config, self.dtype

    def modulation(name):
      return LowRankModulation(3, config.modulation_rank, dtype, name=f'{name}_modulation')(
          vectors, common, modulation_ids)

    def qkv(name):
      return QKV(config.heads, config.head_dim, use_bias=False, epsilon=config.qk_epsilon,
                 dtype=dtype, name=name)

    def out(name):
      return Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, use_bias=False,
                    dtype=dtype, name=f'{name}_out')

    shift, scale, gate = modulation('attention')
    attended = rotary_attention(*qkv('attention')(modulated_norm(x, shift, scale)), cos, sin,
                                segments, interleaved=False)  # [B, L, N, H]
    x = x + gate * out('attention')(attended)

    shift, scale, gate = modulation('cross_attention')
    attended = attend(*qkv('cross_attention')(modulated_norm(x, shift, scale), states),
                      q_segments=segments, kv_segments=state_segments)  # [B, L, N, H]
    x = x + gate * out('cross_attention')(attended)

    shift, scale, gate = modulation('mlp')
    mlp = MLP(int(config.width * config.mlp_ratio), gelu_exact, use_bias=False, dtype=dtype,
              name='mlp')
    x = x + gate * mlp(modulated_norm(x, shift, scale))
    return constrained(x, ('rows', 'tokens', 'act_embed')), None


class TimeVectors(nn.Module):
  """Features of the times: what every modulation reads, and what all modulations share."""

  width: int

  @nn.compact
  def __call__(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps f32[B, V] to (f32[B, V, D], f32[B, V, 3 D])."""
    features = timestep_embedding(t, self.width, factor=1.0)  # [B, V, D]
    hidden = Linear((self.width,), ('cond', 'embed'), use_bias=False, kernel_init=normal(0.02),
                    name='up')(features)
    common = Linear((3 * self.width,), ('embed', 'mlp'), use_bias=False,
                    kernel_init=normal(0.02), activation=nn.silu, name='down')(hidden)
    return RMSNorm(name='norm')(features), common


class LowRankModulation(nn.Module):
  """AdaLN-LoRA: SiLU and two linears, added to what all modulations share; in fp32.

  Attributes:
    chunks: how many shifts, scales and gates.
    rank: channels between the two linears.
    dtype: of the chunks.
  """

  chunks: int
  rank: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, vectors: jax.Array, common: jax.Array, modulation_ids: jax.Array
               ) -> list[jax.Array]:
    """Returns ``chunks`` arrays f[B, L or 1, D] for f32[B, V, D], f32[B, V, 3 D], i32[B, L]."""
    size = self.chunks * vectors.shape[-1]
    low = Linear((self.rank,), ('embed', 'rank'), use_bias=False, activation=nn.silu,
                 name='down')(vectors)  # [B, V, rank]
    out = Linear((size,), ('rank', 'mlp'), use_bias=False, kernel_init=zeros, name='up')(low)
    out = out + common[..., :size]  # [B, V, chunks D]
    return [per_token(chunk.astype(self.dtype), modulation_ids)
            for chunk in jnp.split(out, self.chunks, axis=-1)]


def _with_masks(config: CosmosConfig, x_t: jax.Array, is_clean: jax.Array) -> jax.Array:
  """Appends the mask channels to f[B, L, C], one for each latent pixel of a token."""
  shape = (*x_t.shape[:2], PATCH_AREA)
  parts = [x_t]
  if config.condition_mask:
    parts.append(jnp.broadcast_to(is_clean[..., None], shape).astype(x_t.dtype))
  if config.padding_mask:
    parts.append(jnp.zeros(shape, x_t.dtype))
  return jnp.concatenate(parts, axis=-1)


def _token_times(config: CosmosConfig, t: jax.Array, visual: Visual
                 ) -> tuple[jax.Array, jax.Array]:
  """Times f32[B, V], of which the first G are ``t``, and the time i32[B, L] of each token, 1 .. V,
  0 = padding."""
  if config.clean_time < 0:
    return t, visual.segments
  times = jnp.concatenate([t, jnp.full_like(t[:, :1], config.clean_time)], axis=1)
  return times, jnp.where(visual.is_clean, times.shape[1], visual.segments)
