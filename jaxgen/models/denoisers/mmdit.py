"""FLUX-shaped MMDiT: double-stream, then single-stream blocks over packed rows.

Equals diffusers' ``FluxTransformer2DModel`` on rows of one segment (tests/models/test_mmdit.py).
Beyond it, a row may pack several samples, each with its own timestep, prompt and modulation.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.embeddings import VectorEmbedder
from jaxgen.models.layers.embeddings import timestep_embedding
from jaxgen.models.layers.heads import QKV
from jaxgen.models.layers.heads import rotary_attention
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.mlp import gelu_tanh
from jaxgen.models.layers.modulation import Modulation
from jaxgen.models.layers.modulation import modulated_norm
from jaxgen.models.layers.remat import check_remat
from jaxgen.models.layers.remat import stack
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
    remat: what the backward pass recomputes: ``none``, all but matrix products
      and attention (``dots``) or everything within a block (``full``).
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

  def __post_init__(self):
    where = 'config.model.denoiser'
    if self.width % self.heads:
      raise user_error(f'{where}.heads', self.heads, f'must divide width = {self.width}')
    if sum(self.axes_dims) != self.head_dim or any(dim % 2 for dim in self.axes_dims):
      raise user_error(f'{where}.axes_dims', self.axes_dims,
                       f'must be three even numbers with sum width / heads = {self.head_dim}')
    if self.hidden % self.heads:
      raise user_error(f'{where}.mlp_ratio', self.mlp_ratio,
                       f'heads = {self.heads} must divide width * mlp_ratio = {self.hidden}')
    check_remat(f'{where}.remat', self.remat)

  @property
  def head_dim(self) -> int:
    """H."""
    return self.width // self.heads

  @property
  def hidden(self) -> int:
    """F."""
    return int(self.width * self.mlp_ratio)


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
    vectors = SegmentVectors(config, name='vectors')(t, guidance, pooled)
    image = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(latents)
    text = Linear((config.width,), ('cond', 'embed'), dtype=dtype, name='text_in')(states)

    # Conditioning stands before the image throughout, as in FLUX.
    cos, sin = angles(jnp.concatenate([state_positions, positions], axis=1),
                      config.axes_dims, config.theta)
    joint_segments = jnp.concatenate([state_segments, segments], axis=1)
    shared = (vectors, cos, sin, joint_segments)

    text, image = stack(DoubleBlock, config, dtype, config.double_blocks, 'double_blocks')(
        (text, image), *shared)
    joint = jnp.concatenate([text, image], axis=1)
    joint = stack(SingleBlock, config, dtype, config.single_blocks, 'single_blocks')(
        joint, *shared)
    image = joint[:, text.shape[1]:]

    scale, shift = Modulation(2, dtype, name='final_modulation')(vectors, segments)
    image = modulated_norm(image, shift, scale)
    velocity = Linear((config.in_channels,), ('embed', 'latent'), kernel_init=zeros, dtype=dtype,
                      name='image_out')(image)
    return velocity.astype(jnp.float32)


class SegmentVectors(nn.Module):
  """Sum of the embeddings of time, guidance and pooled prompt: f32[B, G, D]."""

  config: MMDiTConfig

  @nn.compact
  def __call__(self, t: jax.Array, guidance: jax.Array | None, pooled: jax.Array | None
               ) -> jax.Array:
    config = self.config
    assert (guidance is not None) == config.guidance_embed, 'guidance goes with guidance_embed'
    assert (pooled is not None) == bool(config.pooled_dim), 'pooled goes with pooled_dim'
    vectors = VectorEmbedder(config.width, name='time')(timestep_embedding(t))
    if guidance is not None:
      vectors += VectorEmbedder(config.width, name='guidance')(timestep_embedding(guidance))
    if pooled is not None:
      vectors += VectorEmbedder(config.width, name='pooled')(pooled)
    return vectors


class DoubleBlock(nn.Module):
  """Joint attention of conditioning and image, each with its own weights."""

  config: MMDiTConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, streams, vectors, cos, sin, segments):
    """Maps (text f[B, S, D], image f[B, L, D]) to the same; scanned, hence the None."""
    config, dtype = self.config, self.dtype
    split = streams[0].shape[1]
    stream_segments = (segments[:, :split], segments[:, split:])
    names = ('text', 'image')
    chunks = [Modulation(6, dtype, name=f'{name}_modulation')(vectors, own)
              for name, own in zip(names, stream_segments)]

    normed = [modulated_norm(x, shift, scale)
              for x, (shift, scale, *_) in zip(streams, chunks)]
    qkv = [QKV(config.heads, config.head_dim, dtype=dtype, name=f'{name}_attention')(x)
           for name, x in zip(names, normed)]
    q, k, v = (jnp.concatenate(parts, axis=1) for parts in zip(*qkv))
    attended = rotary_attention(q, k, v, cos, sin, segments)

    outs = []
    for name, x, part, (_, _, gate, mlp_shift, mlp_scale, mlp_gate) in zip(
        names, streams, (attended[:, :split], attended[:, split:]), chunks):
      projection = Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=dtype,
                          name=f'{name}_attention_out')
      x = x + gate * projection(part)
      mlp = MLP(config.hidden, gelu_tanh, dtype=dtype, name=f'{name}_mlp')
      x = x + mlp_gate * mlp(modulated_norm(x, mlp_shift, mlp_scale))
      outs.append(nn.with_logical_constraint(x, ('rows', 'tokens', 'act_embed')))
    return tuple(outs), None


class SingleBlock(nn.Module):
  """Attention and MLP in parallel over the joint sequence, joined by one output projection.

  Each head carries its share of the hidden units through that projection, so that splitting the
  heads over devices splits both branches alike.
  """

  config: MMDiTConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, vectors, cos, sin, segments):
    """Maps f[B, S + L, D] to the same; scanned, hence the None."""
    config, dtype = self.config, self.dtype
    shift, scale, gate = Modulation(3, dtype, name='modulation')(vectors, segments)
    normed = modulated_norm(x, shift, scale)
    qkv = QKV(config.heads, config.head_dim, dtype=dtype, name='attention')(normed)
    attended = rotary_attention(*qkv, cos, sin, segments)
    share = config.hidden // config.heads
    hidden = Linear((config.heads, share), ('embed', 'heads', 'head_dim'), dtype=dtype,
                    name='mlp_up')(normed)
    out = Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=dtype,
                 activation=functools.partial(_gelu_behind, config.head_dim), name='out')(
                     jnp.concatenate([attended, hidden], axis=-1))
    x = x + gate * out
    return nn.with_logical_constraint(x, ('rows', 'tokens', 'act_embed')), None


def _gelu_behind(head_dim: int, x: jax.Array) -> jax.Array:
  """GELU of the hidden units of each head, which stand behind its attention output."""
  return jnp.concatenate([x[..., :head_dim], gelu_tanh(x[..., head_dim:])], axis=-1)
