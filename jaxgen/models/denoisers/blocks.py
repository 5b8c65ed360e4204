"""What the MMDiTs are made of: dual- and single-stream blocks, and the vectors that modulate them.

A token has two numbers: its segment, which says what it attends to, and its modulation id, which
says which vector modulates it. They differ where clean tokens of a sample have a time of their own.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
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
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import stack
from jaxgen.sharding.partition import constrained

CLEAN_TIMES = ('same', 'zero')  # of condition tokens: that of the noisy ones, or 0


@dataclasses.dataclass(frozen=True)
class BlockConfig:
  """Sizes of one block.

  Attributes:
    width: D.
    heads: N; D / N channels each.
    hidden: F.
    qk_norm: RMS norm of queries and keys, per head.
    remat: what the backward pass of a stack recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  width: int
  heads: int
  hidden: int
  qk_norm: bool = True
  remat: str = 'none'
  unroll: int = 1

  @property
  def head_dim(self) -> int:
    """H."""
    return self.width // self.heads

  def check(self, axes_dims: tuple[int, ...] | None) -> None:
    """Raises a UserError for sizes of a denoiser's section that do not fit together.

    Args:
      axes_dims: head channels that rotate with each axis; None = no rotation.
    """
    where = 'config.model.denoiser'
    if self.width % self.heads:
      raise user_error(f'{where}.heads', self.heads, f'must divide width = {self.width}')
    if axes_dims is not None and (
        sum(axes_dims) != self.head_dim or any(dim % 2 for dim in axes_dims)):
      raise user_error(f'{where}.axes_dims', axes_dims,
                       f'must be three even numbers with sum width / heads = {self.head_dim}')
    if self.hidden % self.heads:
      raise user_error(f'{where}.mlp_ratio', self.hidden / self.width,
                       f'heads = {self.heads} must divide width * mlp_ratio = {self.hidden}')
    check_scan(f'{where}.', self)


def check_clean_time(clean_time: str) -> None:
  """Refuses an unknown policy for the time of clean tokens."""
  if clean_time not in CLEAN_TIMES:
    raise user_error('config.model.denoiser.clean_time', clean_time,
                     f'must be one of {list(CLEAN_TIMES)}')


class SegmentVectors(nn.Module):
  """Sum of the embeddings of time and, where given, of guidance and pooled prompt.

  Attributes:
    width: D.
  """

  width: int

  @nn.compact
  def __call__(self, t: jax.Array, guidance: jax.Array | None = None,
               pooled: jax.Array | None = None) -> jax.Array:
    """Maps f32[B, G], f32[B, G] and f[B, G, Dp] to f32[B, G, D]."""
    vectors = VectorEmbedder(self.width, name='time')(timestep_embedding(t))
    if guidance is not None:
      vectors += VectorEmbedder(self.width, name='guidance')(timestep_embedding(guidance))
    if pooled is not None:
      vectors += VectorEmbedder(self.width, name='pooled')(pooled)
    return vectors


def modulation_inputs(width: int, clean_time: str, t: jax.Array, visual: Visual,
                      conditioning: Conditioning) -> tuple[jax.Array, jax.Array]:
  """What modulates the visual tokens, embedded within the calling module.

  Args:
    width: D.
    clean_time: the policy; see ``CLEAN_TIMES``.
    t: f32[B, G], time of each segment.
    visual: segments and roles of the tokens.
    conditioning: its guidance and pooled vectors.

  Returns:
    vectors f32[B, V, D], of which the first G are those of the segments, and modulation ids
    i32[B, L], 1 .. V, 0 = padding. Under ``zero`` each segment has a second vector for its clean
    tokens, of time 0 and without guidance; under ``same`` roles make no difference.
  """
  embed = SegmentVectors(width, name='vectors')
  vectors = embed(t, conditioning.guidance, conditioning.pooled)
  if clean_time == 'same':
    return vectors, visual.segments
  of_clean = embed(jnp.zeros_like(t), None, conditioning.pooled)
  ids = jnp.where(visual.is_clean, visual.segments + t.shape[1], visual.segments)
  return jnp.concatenate([vectors, of_clean], axis=1), ids


def dual_then_single(config: BlockConfig, dtype: jnp.dtype, doubles: int, singles: int,
                     text: jax.Array, image: jax.Array, *shared) -> jax.Array:
  """Runs both stacks within the calling module and returns the image tokens.

  Args:
    config: of every block.
    dtype: of the computation.
    doubles: number of dual-stream blocks.
    singles: number of single-stream blocks.
    text: f[B, S, D]; stands before the image throughout, as in FLUX.
    image: f[B, L, D].
    *shared: inputs of every block, for the S + L tokens; see ``DoubleBlock``.
  """
  text, image = stack(DoubleBlock, config, dtype, doubles, 'double_blocks')(
      (text, image), *shared)
  joint = jnp.concatenate([text, image], axis=1)  # [B, S + L, D]
  joint = stack(SingleBlock, config, dtype, singles, 'single_blocks')(
      joint, *shared)
  return joint[:, text.shape[1]:]


def project_out(image: jax.Array, channels: int, vectors: jax.Array, segments: jax.Array,
                dtype: jnp.dtype) -> jax.Array:
  """Last norm and projection within the calling module: f[B, L, D] to f32[B, L, channels]."""
  scale, shift = Modulation(2, dtype, name='final_modulation')(vectors, segments)
  image = modulated_norm(image, shift, scale)
  velocity = Linear((channels,), ('embed', 'latent'), kernel_init=zeros, dtype=dtype,
                    name='image_out')(image)
  return velocity.astype(jnp.float32)


class DoubleBlock(nn.Module):
  """Joint attention of conditioning and image, each with its own weights.

  Attributes:
    config: sizes.
    dtype: of the computation.
    text_ends: gives no conditioning out, because no block follows.
  """

  config: BlockConfig
  dtype: jnp.dtype
  text_ends: bool = False

  @nn.compact
  def __call__(self, streams, vectors, modulation_ids, cos, sin, segments):
    """Maps (text f[B, S, D], image f[B, L, D]) to the same; scanned, hence the None.

    Args:
      streams: the two.
      vectors: f32[B, V, D].
      modulation_ids: i32[B, S + L], the vector of each token, 1 .. V; 0 = padding.
      cos: f32[B, S + L, H / 2], or None for tokens without rotation; ``sin`` alike.
      sin: see ``cos``.
      segments: i32[B, S + L], 0 = padding.
    """
    config, dtype = self.config, self.dtype
    split = streams[0].shape[1]
    names = ('text', 'image')
    chunks = [Modulation(2 if self.text_ends and name == 'text' else 6, dtype,
                         name=f'{name}_modulation')(vectors, own)
              for name, own in zip(names, (modulation_ids[:, :split], modulation_ids[:, split:]))]

    normed = [modulated_norm(x, shift, scale)
              for x, (shift, scale, *_) in zip(streams, chunks)]
    qkv = [QKV(config.heads, config.head_dim, norm=config.qk_norm, dtype=dtype,
               name=f'{name}_attention')(x) for name, x in zip(names, normed)]
    q, k, v = (jnp.concatenate(parts, axis=1) for parts in zip(*qkv))  # [B, S + L, N, H]
    attended = rotary_attention(q, k, v, cos, sin, segments)

    outs = [x if len(chunk) == 2 else self._residuals(name, x, part, *chunk[2:])
            for name, x, part, chunk in zip(
                names, streams, (attended[:, :split], attended[:, split:]), chunks)]
    return tuple(outs), None

  def _residuals(self, name, x, attended, gate, mlp_shift, mlp_scale, mlp_gate):
    """One stream after attention: its output projection, then its MLP."""
    config, dtype = self.config, self.dtype
    projection = Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=dtype,
                        name=f'{name}_attention_out')
    x = x + gate * projection(attended)
    mlp = MLP(config.hidden, gelu_tanh, dtype=dtype, name=f'{name}_mlp')
    x = x + mlp_gate * mlp(modulated_norm(x, mlp_shift, mlp_scale))
    return constrained(x, ('rows', 'tokens', 'act_embed'))


class SingleBlock(nn.Module):
  """Attention and MLP in parallel over the joint sequence, joined by one output projection.

  Each head carries its share of the hidden units through that projection, so that splitting the
  heads over devices splits both branches alike.
  """

  config: BlockConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, vectors, modulation_ids, cos, sin, segments):
    """Maps f[B, S + L, D] to the same; see ``DoubleBlock`` for the rest."""
    config, dtype = self.config, self.dtype
    shift, scale, gate = Modulation(3, dtype, name='modulation')(vectors, modulation_ids)
    normed = modulated_norm(x, shift, scale)
    qkv = QKV(config.heads, config.head_dim, norm=config.qk_norm, dtype=dtype,
              name='attention')(normed)
    attended = rotary_attention(*qkv, cos, sin, segments)  # [B, S + L, N, H]
    share = config.hidden // config.heads
    hidden = Linear((config.heads, share), ('embed', 'heads', 'head_dim'), dtype=dtype,
                    name='mlp_up')(normed)  # [B, S + L, N, F / N]
    out = Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=dtype,
                 activation=functools.partial(_gelu_behind, config.head_dim), name='out')(
                     jnp.concatenate([attended, hidden], axis=-1))
    x = x + gate * out
    return constrained(x, ('rows', 'tokens', 'act_embed')), None


def _gelu_behind(head_dim: int, x: jax.Array) -> jax.Array:
  """GELU of the hidden units of each head, which stand behind its attention output."""
  return jnp.concatenate([x[..., :head_dim], gelu_tanh(x[..., head_dim:])], axis=-1)
