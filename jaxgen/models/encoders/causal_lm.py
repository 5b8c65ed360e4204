"""Causal language model (Qwen2, Qwen3, Llama 3): packed rows, every state, KV cache for text."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.mlp import GatedMLP
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import scanned
from jaxgen.models.layers.rope import RopeScaling
from jaxgen.models.layers.rope import apply_rope
from jaxgen.models.layers.rope import sectioned_angles
from jaxgen.sharding.partition import constrained


@dataclasses.dataclass(frozen=True)
class CausalLMConfig:
  """Sizes of the decoder.

  Attributes:
    vocab: V.
    width: D.
    layers: number of blocks.
    heads: N query heads.
    kv_heads: K key and value heads.
    mlp: F.
    head_channels: H; 0 = width / heads.
    qkv_bias: biases on the three input projections of attention.
    qk_norm: RMS norm of the queries and keys of each head.
    rope_theta: base of the rotary frequencies.
    rope_sections: pairs of channels that rotate with (t, h, w) (mRoPE); empty = positions have
      one axis.
    rope_scaling: of the rotary frequencies.
    norm_eps: epsilon of every norm.
    tie_embeddings: the token embedding is the output head as well.
    embedding_std: of the initial token embeddings; published models are 0.02, but a model of few
      layers that starts there soon forgets which token it is at.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  mlp: int
  head_channels: int = 0
  qkv_bias: bool = True
  qk_norm: bool = False
  rope_theta: float = 1_000_000.0
  rope_sections: tuple[int, ...] = ()
  rope_scaling: RopeScaling = RopeScaling()
  norm_eps: float = 1e-6
  tie_embeddings: bool = False
  embedding_std: float = 0.02
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    where = 'config.model: language model'
    if not self.head_channels and self.width % (2 * self.heads):
      raise user_error(f'{where} width', self.width,
                       f'must be an even multiple of heads {self.heads}')
    if self.head_channels % 2:
      raise user_error(f'{where} head_channels', self.head_channels, 'must be even')
    if self.rope_sections and sum(self.rope_sections) != self.head_dim // 2:
      raise user_error(f'{where} rope_sections', self.rope_sections,
                       f'must have the sum {self.head_dim // 2}, half the channels of a head')
    if self.heads % self.kv_heads:
      raise user_error(f'{where} heads', self.heads,
                       f'must be a multiple of kv_heads {self.kv_heads}')
    check_scan(f'{where} ', self)

  @property
  def head_dim(self) -> int:
    """H."""
    return self.head_channels or self.width // self.heads


@flax.struct.dataclass
class KVCache:
  """Keys and values of the tokens read so far, in their order.

  Attributes:
    keys: f[layers, B, S, K, H], rotated; S slots.
    values: f[layers, B, S, K, H].
    segments: i32[B, S], 0 = padding, or a slot that is not filled.
  """

  keys: jax.Array
  values: jax.Array
  segments: jax.Array

  @classmethod
  def empty(cls, config: CausalLMConfig, rows: int, slots: int, dtype: jnp.dtype) -> 'KVCache':
    """A cache without tokens."""
    shape = (config.layers, rows, slots, config.kv_heads, config.head_dim)
    return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype),
               jnp.zeros((rows, slots), jnp.int32))


class CausalLM(nn.Module):
  """The decoder; a token sees itself and the tokens of its segment that stand before it in the row.

  Positions matter to RoPE alone. Everywhere they are i32[B, S] or i32[B, S, 3], for (t, h, w): a
  model without ``rope_sections`` reads the first of three axes, and one with them takes a single
  axis for all three, as text has it (``_rotation``).
  """

  config: CausalLMConfig
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    c = self.config
    self.embedding = self.param(
        'embedding', nn.with_logical_partitioning(normal(c.embedding_std), ('vocab', 'embed')),
        (c.vocab, c.width), jnp.float32)
    self.decoder = Decoder(c, self.dtype)
    if not c.tie_embeddings:
      self.head = self.param(
          'head', nn.with_logical_partitioning(normal(0.02), ('embed', 'vocab')),
          (c.width, c.vocab), jnp.float32)

  def __call__(self, tokens: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
    """Logits f32[B, S, V] of i32[B, S]; see ``decode``."""
    return self.logits(self.decode(self.embed(tokens), positions, segments))

  @nn.nowrap
  def example(self) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The smallest arguments of ``__call__``: one token."""
    token = jnp.zeros((1, 1), jnp.int32)
    return token, token, token + 1

  def embed(self, tokens: jax.Array) -> jax.Array:
    """i32[B, S] -> f[B, S, D]."""
    return jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)

  def read(self, tokens: jax.Array, present: jax.Array, skip: int = 0) -> jax.Array:
    """States f[B, S, D] of texts, one in each row: what every text tower offers.

    Args:
      tokens: i32[B, S].
      present: bool[B, S], False for padding.
      skip: as for ``decode``.
    """
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return self.decode(self.embed(tokens), places, present.astype(jnp.int32), skip=skip)

  def decode(self, embeddings: jax.Array, positions: jax.Array, segments: jax.Array,
             all_layers: bool = False, skip: int = 0) -> jax.Array:
    """Runs the blocks.

    Args:
      embeddings: f[B, S, D].
      positions: i32[B, S] or i32[B, S, 3], position of each token within its segment.
      segments: i32[B, S], 0 = padding.
      all_layers: return every layer.
      skip: leave out the last blocks, and with them the final norm.

    Returns:
      f[B, S, D] after the final norm, with ``skip`` before it: ``hidden_states[-1 - skip]`` of
      transformers. Or f[layers + 1, B, S, D], all of them: the embeddings, the output of every
      block but the last, and the normed output of the last.
    """
    assert not (all_layers and skip), 'either every layer or one before the last'
    return self.decoder(embeddings, positions, segments, None, 0, all_layers, skip)[0]

  def extend(self, embeddings: jax.Array, positions: jax.Array, segments: jax.Array,
             cache: KVCache, slot: jax.Array | int) -> tuple[jax.Array, KVCache]:
    """Runs the blocks on new tokens that see the cached ones, and caches them from ``slot`` on.

    Args:
      embeddings, positions, segments: of the new tokens, as in ``decode``.
      cache: with room for them.
      slot: number of slots that are taken.

    Returns:
      ``(f[B, S, D] after the final norm, the cache with the new tokens)``.
    """
    return self.decoder(embeddings, positions, segments, cache, slot)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """f[B, S, D] after the final norm -> f32[B, S, V]."""
    head = self.embedding.T if self.config.tie_embeddings else self.head
    return jnp.matmul(hidden.astype(self.dtype), head.astype(self.dtype),
                      preferred_element_type=jnp.float32)


def place_images(text: jax.Array, image_tokens: jax.Array, image_index: jax.Array) -> jax.Array:
  """f[B, S, D]: text embeddings f[B, S, D] with image tokens f[B, T, D] where the index
  i32[B, S] names one of them, and is not -1."""
  index = jnp.maximum(image_index, 0)[..., None]
  images = jnp.take_along_axis(image_tokens.astype(text.dtype), index, axis=1)
  return jnp.where(image_index[..., None] >= 0, images, text)


class Decoder(nn.Module):
  """The scanned blocks and the final norm."""

  config: CausalLMConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, positions: jax.Array, segments: jax.Array,
               cache: KVCache | None, slot: jax.Array | int,
               all_layers: bool = False, skip: int = 0) -> tuple[jax.Array, KVCache | None]:
    """See ``CausalLM.decode`` and ``CausalLM.extend``."""
    c = self.config
    rotation = _rotation(positions, c)  # twice [B, S, H / 2]
    place = kv_place = (_order(segments, slot), segments)
    if cache is not None:
      kv_segments = jax.lax.dynamic_update_slice_in_dim(cache.segments, segments, slot, axis=1)
      kv_place = (_order(kv_segments, 0), kv_segments)
    stack = scanned(DecoderBlock, c, c.layers, in_axes=(0, 0) + (nn.broadcast,) * 4)
    kv = None if cache is None else (cache.keys, cache.values)
    runs = jnp.arange(c.layers) < c.layers - skip if skip else None
    last, (inputs, kv) = stack(c, self.dtype, all_layers, name='layers')(
        x, kv, runs, slot, rotation, place, kv_place)
    if not skip:
      last = RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name='norm')(last)
    cache = None if cache is None else KVCache(*kv, kv_place[1])
    return (jnp.concatenate([inputs, last[None]]) if all_layers else last), cache


def _rotation(positions: jax.Array, config: CausalLMConfig) -> tuple[jax.Array, jax.Array]:
  """cos, sin: f32[B, S, H / 2] of positions with one axis or three; see ``CausalLM``."""
  sections = config.rope_sections or (config.head_dim // 2,)
  if positions.ndim == 2:
    positions = jnp.repeat(positions[..., None], len(sections), axis=-1)
  elif not config.rope_sections:
    positions = positions[..., :1]
  return sectioned_angles(positions, sections, config.rope_theta, config.rope_scaling)


def _order(segments: jax.Array, slot: jax.Array | int) -> jax.Array:
  """i32[B, S]: place of each token in its row, the first at ``slot``."""
  return jnp.broadcast_to(slot + jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)


class DecoderBlock(nn.Module):
  """Pre-norm attention and gated MLP."""

  config: CausalLMConfig
  dtype: jnp.dtype
  collect: bool  # hand out the block's input as well

  @nn.compact
  def __call__(self, x, kv, runs, slot, rotation, place, kv_place):
    """f[B, S, D] and this layer's cached (keys, values) or None -> the same, one block on.

    A block that does not run (bool[], None = it does) hands its input on.
    """
    c = self.config
    x = start = constrained(x, ('rows', 'tokens', 'act_embed'))
    given = x if self.collect else None
    norm = RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name='attention_norm')
    out, kv = CausalAttention(c, self.dtype, name='attention')(
        norm(x), kv, slot, rotation, place, kv_place)
    x = x + out
    norm = RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name='mlp_norm')
    x = x + GatedMLP(c.mlp, dtype=self.dtype, name='mlp')(norm(x))
    return x if runs is None else jnp.where(runs, x, start), (given, kv)


class CausalAttention(nn.Module):
  """Grouped-query attention with half-split RoPE."""

  config: CausalLMConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, kv, slot, rotation, place, kv_place):
    """f[B, S, D] -> f[B, S, D]; with a cache, new keys and values enter it before attending."""
    c = self.config

    def project(name, heads, axis):
      return Linear((heads, c.head_dim), ('embed', axis, 'head_dim'), use_bias=c.qkv_bias,
                    dtype=self.dtype, name=name)(x)

    q = project('q', c.heads, 'heads')  # [B, S, N, H]
    k = project('k', c.kv_heads, 'kv_heads')  # [B, S, K, H]
    v = project('v', c.kv_heads, 'kv_heads')  # [B, S, K, H]
    if c.qk_norm:
      q = RMSNorm(c.norm_eps, 'head_dim', self.dtype, name='q_norm')(q)
      k = RMSNorm(c.norm_eps, 'head_dim', self.dtype, name='k_norm')(k)
    q, k = (apply_rope(y, *rotation, interleaved=False) for y in (q, k))
    if kv is not None:
      k, v = kv = tuple(jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=1)
                        for old, new in zip(kv, (k, v), strict=True))
    out = attend(q, k, v, q_positions=place[0], kv_positions=kv_place[0],
                 q_segments=place[1], kv_segments=kv_place[1])  # [B, S, N, H]
    out = Linear((c.width,), ('heads', 'head_dim', 'embed'), inputs=2, use_bias=False,
                 dtype=self.dtype, name='out')(out)
    return out, kv
