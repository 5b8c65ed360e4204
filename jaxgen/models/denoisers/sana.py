"""SANA: linear attention, cross attention and an MLP that mixes neighbours, over packed rows.

Equals diffusers' ``SanaTransformer2DModel`` on rows of one segment (tests/models/test_sana.py).
Beyond it, a row may pack several samples. The model has no position embedding: it knows where a
token is from the convolution in its MLPs alone, which finds the neighbours by their positions.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models.denoisers.base import Denoiser
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.embeddings import VectorEmbedder
from jaxgen.models.layers.embeddings import timestep_embedding
from jaxgen.models.layers.heads import QKV
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.linear_attention import attend_linearly
from jaxgen.models.layers.mlp import gelu_tanh
from jaxgen.models.layers.modulation import modulated_norm
from jaxgen.models.layers.modulation import per_token
from jaxgen.models.layers.neighbours import NeighbourConv
from jaxgen.models.layers.neighbours import neighbours
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import stack
from jaxgen.sharding.partition import constrained

TEXT_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class SanaConfig:
  """Sizes of a SANA denoiser; the defaults are SANA-1.6B's.

  Attributes:
    in_channels: C, channels of a latent token; the autoencoder's, for a token is one pixel.
    cond_dim: channels of the conditioning states.
    width: D.
    heads: N of the linear attention; D / N channels each.
    cross_heads: heads of the cross attention.
    layers: how many blocks.
    mlp_ratio: F / D.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  in_channels: int = 32
  cond_dim: int = 2304
  width: int = 2240
  heads: int = 70
  cross_heads: int = 20
  layers: int = 20
  mlp_ratio: float = 2.5
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    where = 'config.model.denoiser'
    for field in ('heads', 'cross_heads'):
      heads = dataclasses.asdict(self)[field]
      if self.width % heads:
        raise user_error(f'{where}.{field}', heads, f'must divide width = {self.width}')
    check_scan(f'{where}.', self)

  @property
  def hidden(self) -> int:
    """F."""
    return int(self.mlp_ratio * self.width)


class Sana(Denoiser):
  """A ``Denoiser``; see there. Tokens of one image share t; positions of the states have no effect.

  The sums of the linear attention and of the convolution stay fp32 too.
  """

  config: SanaConfig

  @nn.compact
  def __call__(self, x_t: jax.Array, t: jax.Array, visual: Visual, conditioning: Conditioning
               ) -> jax.Array:
    """See ``Denoiser``; returns f32[B, L, C]."""
    self.check_vectors(conditioning)
    config, dtype, segments = self.config, self.dtype, visual.segments
    x = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(
        x_t)  # [B, L, D]
    states = Linear((config.width,), ('cond', 'mlp'), dtype=dtype, name='text_in')(
        conditioning.states)
    states = Linear((config.width,), ('mlp', 'embed'), activation=gelu_tanh, dtype=dtype,
                    name='text_out')(states)
    states = RMSNorm(TEXT_EPSILON, dtype=dtype, name='text_norm')(states)  # [B, S, D]

    vectors = VectorEmbedder(config.width, name='time')(timestep_embedding(t))  # [B, G, D]
    common = Linear((6 * config.width,), ('embed', 'mlp'), kernel_init=zeros,
                    activation=nn.silu, name='modulation')(vectors)  # [B, G, 6 D]
    indices = neighbours(visual.positions, segments)  # [B, L, 9]
    x = stack(SanaBlock, config, dtype, config.layers, 'blocks')(
        x, common, indices, segments, states, conditioning.segments)

    shift, scale = TabledModulation(2, dtype, name='final_modulation')(
        jnp.tile(vectors, 2), segments)
    velocity = Linear((config.in_channels,), ('embed', 'latent'), kernel_init=zeros, dtype=dtype,
                      name='image_out')(modulated_norm(x, shift, scale))
    return velocity.astype(jnp.float32)


class SanaBlock(nn.Module):
  """Linear attention, cross attention and mixing MLP; the cross attention is not modulated."""

  config: SanaConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, common, indices, segments, states, state_segments):
    """Maps f[B, L, D] to the same; scanned, hence the None.

    Args:
      x: f[B, L, D].
      common: f32[B, G, 6 D], the modulation that all blocks share.
      indices: i32[B, L, 9], see ``neighbours``.
      segments: i32[B, L], 0 = padding.
      states: f[B, S, D].
      state_segments: i32[B, S].
    """
    config, dtype = self.config, self.dtype

    def qkv(name, heads, use_bias):
      return QKV(heads, config.width // heads, use_bias=use_bias, norm=False, dtype=dtype,
                 name=name)

    def out(name):
      return Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=dtype,
                    name=f'{name}_out')

    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = TabledModulation(
        6, dtype, name='modulation')(common, segments)
    attended = attend_linearly(
        *qkv('attention', config.heads, False)(modulated_norm(x, shift, scale)),
        segments, common.shape[1])  # [B, L, N, H]
    x = x + gate * out('attention')(attended)

    attended = attend(*qkv('cross_attention', config.cross_heads, True)(x, states),
                      q_segments=segments, kv_segments=state_segments)  # [B, L, N, H]
    x = x + out('cross_attention')(attended)

    mlp = MixingMLP(config.hidden, dtype, name='mlp')
    x = x + mlp_gate * mlp(modulated_norm(x, mlp_shift, mlp_scale), indices)
    return constrained(x, ('rows', 'tokens', 'act_embed')), None


class TabledModulation(nn.Module):
  """Shifts, scales and gates that all blocks share, plus a learned table of the block's own.

  Attributes:
    chunks: how many.
    dtype: of the chunks.
  """

  chunks: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, common: jax.Array, segments: jax.Array) -> list[jax.Array]:
    """Returns ``chunks`` arrays f[B, L or 1, D] for f32[B, G, chunks D]."""
    shape = (self.chunks, common.shape[-1] // self.chunks)
    table = self.param(
        'table', nn.with_logical_partitioning(normal(shape[1] ** -0.5), ('chunks', 'embed')),
        shape, jnp.float32)
    return [per_token((chunk + row).astype(self.dtype), segments)
            for chunk, row in zip(jnp.split(common, self.chunks, axis=-1), table)]


class MixingMLP(nn.Module):
  """``down(mix(up) * silu(mix(gate)))``: up and gate of SiLU, each mixed with its neighbours.

  Attributes:
    hidden: F.
    dtype: of the computation.
  """

  hidden: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, indices: jax.Array) -> jax.Array:
    """Maps f[B, L, D] to the same; ``indices`` are those of ``neighbours``."""

    def mixed(name):
      hidden = Linear((self.hidden,), ('embed', 'mlp'), dtype=self.dtype, name=name)(x)
      return NeighbourConv(self.dtype, name=f'{name}_mix')(nn.silu(hidden), indices)

    down = Linear((x.shape[-1],), ('mlp', 'embed'), use_bias=False, dtype=self.dtype, name='down')
    return down(mixed('up') * nn.silu(mixed('gate')))
