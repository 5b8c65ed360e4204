"""Cosmos-Predict2.5: video transformer with AdaLN-LoRA and cross attention over packed rows.

Equals diffusers' ``CosmosTransformer3DModel`` with ``use_crossattn_projection`` on rows of one
segment (tests/models/test_cosmos.py). Beyond it, a row may pack several samples, and the time of
a token is data, so that clean condition frames stand beside noisy ones (L110, L139).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.embeddings import timestep_embedding
from jaxgen.models.layers.heads import QKV
from jaxgen.models.layers.heads import rotary_attention
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.mlp import gelu_exact
from jaxgen.models.layers.modulation import modulated_norm
from jaxgen.models.layers.modulation import per_token
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import stack
from jaxgen.models.layers.rope import angles
from jaxgen.sharding.partition import constrained

PATCH_AREA = 4  # latent pixels of a token; a mask has one channel for each
BASE_FPS = 24.0  # frames per second at which the time position is the frame's number
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
    clean_time: time of condition tokens: 1e-4 for weights of the rectified flow, 0.1 for those
      merged from EDM (L141).
    padding_mask: the weights have a channel that marks the padding of a picture; nothing is
      padded here, so it is always zero.
    qk_epsilon: of the norms of queries and keys: 1e-5 in diffusers, 1e-6 in NVIDIA's own code.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks in a turn of their loop; see ``layers.remat``.
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
  clean_time: float = 1e-4
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
    if self.in_channels % PATCH_AREA:
      raise user_error(f'{where}.in_channels', self.in_channels,
                       f'must be a multiple of the {PATCH_AREA} latent pixels of a token')
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


class Cosmos(nn.Module):
  """Velocity of noisy latent tokens, given time and conditioning states.

  Attributes:
    config: sizes.
    dtype: of the computation; time path, norms, softmax and RoPE stay fp32.
  """

  config: CosmosConfig
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
      clean: jax.Array | None = None,
      steers: jax.Array | None = None,
      fps: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts the velocity; a token sees latents and states of its own segment only.

    Args:
      latents: f[B, L, C], x_t, or clean latents at condition tokens.
      t: f32[B, G], time of each segment in [0, 1]; with ``steers`` f32[B, V], any times.
      positions: i32[B, L, 3], (t, h, w) of each token.
      segments: i32[B, L], 0 = padding.
      states: f[B, S, cond_dim].
      state_positions: i32[B, S, 3], without effect: cross attention knows no order.
      state_segments: i32[B, S].
      clean: bool[B, L], True at condition tokens; None = nowhere.
      steers: i32[B, L], the time of each token, 1 .. V, 0 = padding; None = the time of its
        segment, and ``clean_time`` where ``clean``.
      fps: f32[B, G], frames per second of each segment; None = positions in time are frames.

    Returns:
      f32[B, L, C]; what stands at condition tokens and at padding has no meaning.
    """
    del state_positions
    config, dtype = self.config, self.dtype
    x = Linear((config.width,), ('latent', 'embed'), use_bias=False, dtype=dtype,
               name='image_in')(_with_masks(config, latents, clean))
    if config.cond_projection:
      states = nn.gelu(Linear((config.text_dim,), ('cond', 'embed'), dtype=dtype,
                              name='cond_in')(states), approximate=False)
    if steers is None:
      t, steers = _segment_times(config, t, segments, clean)
    vectors, common = TimeVectors(config.width, name='time')(t)
    cos, sin = angles(_at_base_rate(positions, segments, fps), config.axes_dims, config.thetas)

    x = stack(CosmosBlock, config, dtype, config.layers, 'blocks')(
        x, vectors, common, steers, cos, sin, segments, states.astype(dtype), state_segments)
    shift, scale = LowRankModulation(2, config.modulation_rank, dtype, name='final_modulation')(
        vectors, common, steers)
    velocity = Linear((config.in_channels,), ('embed', 'latent'), use_bias=False,
                      kernel_init=zeros, dtype=dtype, name='image_out')(
                          modulated_norm(x, shift, scale))
    return velocity.astype(jnp.float32)


class CosmosBlock(nn.Module):
  """Self-attention, cross attention and MLP, each behind its own low-rank modulation."""

  config: CosmosConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, vectors, common, steers, cos, sin, segments, states, state_segments):
    """Maps f[B, L, D] to the same; scanned, hence the None."""
    config, dtype = self.config, self.dtype

    def modulation(name):
      return LowRankModulation(3, config.modulation_rank, dtype, name=f'{name}_modulation')(
          vectors, common, steers)

    def qkv(name):
      return QKV(config.heads, config.head_dim, use_bias=False, epsilon=config.qk_epsilon,
                 dtype=dtype, name=name)

    def out(name):
      return Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, use_bias=False,
                    dtype=dtype, name=f'{name}_out')

    shift, scale, gate = modulation('attention')
    attended = rotary_attention(*qkv('attention')(modulated_norm(x, shift, scale)), cos, sin,
                                segments, interleaved=False)
    x = x + gate * out('attention')(attended)

    shift, scale, gate = modulation('cross_attention')
    attended = attend(*qkv('cross_attention')(modulated_norm(x, shift, scale), states),
                      q_segments=segments, kv_segments=state_segments)
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
    features = timestep_embedding(t, self.width, factor=1.0)
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
  def __call__(self, vectors: jax.Array, common: jax.Array, steers: jax.Array) -> list[jax.Array]:
    """Returns ``chunks`` arrays f[B, L or 1, D] for f32[B, V, D], f32[B, V, 3 D], i32[B, L]."""
    size = self.chunks * vectors.shape[-1]
    low = Linear((self.rank,), ('embed', 'rank'), use_bias=False, activation=nn.silu,
                 name='down')(vectors)
    out = Linear((size,), ('rank', 'mlp'), use_bias=False, kernel_init=zeros, name='up')(low)
    out = out + common[..., :size]
    return [per_token(chunk.astype(self.dtype), steers)
            for chunk in jnp.split(out, self.chunks, axis=-1)]


def _with_masks(config: CosmosConfig, latents: jax.Array, clean: jax.Array | None) -> jax.Array:
  """Puts the mask channels behind the latent's, one for each latent pixel of a token."""
  assert clean is None or config.condition_mask, 'clean goes with condition_mask'
  shape = (*latents.shape[:2], PATCH_AREA)
  parts = [latents]
  if config.condition_mask:
    mask = jnp.zeros(shape[:2], bool) if clean is None else clean
    parts.append(jnp.broadcast_to(mask[..., None], shape).astype(latents.dtype))
  if config.padding_mask:
    parts.append(jnp.zeros(shape, latents.dtype))
  return jnp.concatenate(parts, axis=-1)


def _segment_times(config: CosmosConfig, t: jax.Array, segments: jax.Array,
                   clean: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """Times f32[B, V] and steers i32[B, L] from those of the segments."""
  if clean is None:
    return t, segments
  times = jnp.concatenate([t, jnp.full_like(t[:, :1], config.clean_time)], axis=1)
  return times, jnp.where(clean & (segments > 0), times.shape[1], segments)


def _at_base_rate(positions: jax.Array, segments: jax.Array, fps: jax.Array | None) -> jax.Array:
  """Positions whose time runs at ``BASE_FPS``."""
  if fps is None:
    return positions
  ratio = per_token((BASE_FPS / fps)[..., None], segments)
  return jnp.concatenate([positions[..., :1] * ratio, positions[..., 1:].astype(ratio.dtype)],
                         axis=-1)
