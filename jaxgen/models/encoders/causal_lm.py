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
    unroll: blocks in a turn of their loop; see ``layers.remat``.
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
  """Keys and values of the tokens seen so far, with the slots' places in the text.

  Attributes:
    keys: f[layers, B, S, K, H], rotated.
    values: f[layers, B, S, K, H].
    order: i32[B, S], what causality goes by.
    segments: i32[B, S], 0 = slot not filled.
  """

  keys: jax.Array
  values: jax.Array
  order: jax.Array
  segments: jax.Array

  @classmethod
  def empty(cls, config: CausalLMConfig, rows: int, slots: int, dtype: jnp.dtype) -> 'KVCache':
    """A cache without tokens."""
    shape = (config.layers, rows, slots, config.kv_heads, config.head_dim)
    blank = jnp.zeros((rows, slots), jnp.int32)
    return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), blank, blank)


class CausalLM(nn.Module):
  """The decoder; a token sees the tokens of its segment that do not come after it.

  What comes after goes by position, so that tokens may stand anywhere in the row. Where positions
  have three axes, which do not order the tokens of an image, it goes by the place in the row.
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

  def embed(self, tokens: jax.Array) -> jax.Array:
    """i32[B, S] -> f[B, S, D]."""
    return jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)

  def decode(self, embeddings: jax.Array, positions: jax.Array, segments: jax.Array,
             all_layers: bool = False, skip: int = 0) -> jax.Array:
    """Runs the blocks.

    Args:
      embeddings: f[B, S, D].
      positions: i32[B, S], place of each token within its segment; i32[B, S, 3] with
        ``rope_sections``.
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
    if not c.rope_sections:
      rotation = sectioned_angles(positions[..., None], (c.head_dim // 2,), c.rope_theta,
                                  c.rope_scaling)
      order = positions
    else:
      rotation = sectioned_angles(positions, c.rope_sections, c.rope_theta, c.rope_scaling)
      order = jnp.broadcast_to(slot + jnp.arange(x.shape[1], dtype=jnp.int32), segments.shape)
    place = (order, segments)
    if cache is not None:
      kv_place = tuple(jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=1)
                       for old, new in zip((cache.order, cache.segments), place, strict=True))
    else:
      kv_place = place
    stack = scanned(DecoderBlock, c, c.layers, in_axes=(0, 0) + (nn.broadcast,) * 4)
    kv = None if cache is None else (cache.keys, cache.values)
    runs = jnp.arange(c.layers) < c.layers - skip if skip else None
    last, (inputs, kv) = stack(c, self.dtype, all_layers, name='layers')(
        x, kv, runs, slot, rotation, place, kv_place)
    if not skip:
      last = RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name='norm')(last)
    cache = None if cache is None else KVCache(*kv, *kv_place)
    return (jnp.concatenate([inputs, last[None]]) if all_layers else last), cache


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

    q, k = project('q', c.heads, 'heads'), project('k', c.kv_heads, 'kv_heads')
    v = project('v', c.kv_heads, 'kv_heads')
    if c.qk_norm:
      q = RMSNorm(c.norm_eps, 'head_dim', self.dtype, name='q_norm')(q)
      k = RMSNorm(c.norm_eps, 'head_dim', self.dtype, name='k_norm')(k)
    q, k = (apply_rope(y, *rotation, interleaved=False) for y in (q, k))
    if kv is not None:
      k, v = kv = tuple(jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=1)
                        for old, new in zip(kv, (k, v), strict=True))
    out = attend(q, k, v, q_positions=place[0], kv_positions=kv_place[0],
                 q_segments=place[1], kv_segments=kv_place[1])
    out = Linear((c.width,), ('heads', 'head_dim', 'embed'), inputs=2, use_bias=False,
                 dtype=self.dtype, name='out')(out)
    return out, kv
