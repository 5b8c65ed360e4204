"""T5's encoder: blocks without positions, whose attention learns a bias for each distance."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.mlp import GatedMLP
from jaxgen.models.layers.mlp import gelu_tanh
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import scanned
from jaxgen.sharding.partition import constrained

# T5 1.1 XXL, the text encoder of FLUX.1 and Stable Diffusion 3.
T5_XXL: dict[str, Any] = dict(family='t5', vocab=32_128, width=4096, layers=24, heads=64,
                              head_channels=64, mlp=10_240)


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes of the encoder; its MLPs are gated by a GELU, as those of T5 1.1.

  Attributes:
    vocab: V.
    width: D.
    layers: number of blocks.
    heads: N.
    head_channels: H; N H need not be D.
    mlp: F.
    buckets: R, distances that have a bias of their own, half of them for each direction.
    max_distance: distances from here on share one bucket.
    norm_eps: epsilon of every norm.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  vocab: int
  width: int
  layers: int
  heads: int
  head_channels: int
  mlp: int
  buckets: int = 32
  max_distance: int = 128
  norm_eps: float = 1e-6
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    where = 'config.model.text_encoder'
    if self.buckets < 4 or self.buckets % 4:
      raise user_error(f'{where}.buckets', self.buckets, 'must be a multiple of 4')
    if self.max_distance <= self.buckets // 4:
      raise user_error(f'{where}.max_distance', self.max_distance,
                       f'must be above a quarter of buckets = {self.buckets}')
    check_scan(f'{where}.', self)


class T5Encoder(nn.Module):
  """Texts to token states; each row is one text.

  Equals transformers' ``T5EncoderModel`` (tests/models/test_t5.py).
  """

  config: T5Config
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def example(self) -> tuple[jax.Array, jax.Array]:
    """The smallest arguments of ``__call__``: one token."""
    return jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)

  def read(self, tokens: jax.Array, present: jax.Array) -> jax.Array:
    """As ``__call__``: what every text tower offers."""
    return self(tokens, present)

  @nn.compact
  def __call__(self, tokens: jax.Array, present: jax.Array) -> jax.Array:
    """Encodes texts.

    Args:
      tokens: i32[B, S].
      present: bool[B, S], which tokens are attended to.

    Returns:
      f[B, S, D] after the final norm.
    """
    c = self.config
    embedding = self.param(
        'embedding', nn.with_logical_partitioning(normal(1.0), ('vocab', 'embed')),
        (c.vocab, c.width), jnp.float32)
    by_bucket = self.param(
        'distance_bias', nn.with_logical_partitioning(normal(0.02), ('positions', 'heads')),
        (c.buckets, c.heads), jnp.float32)
    x = jnp.take(embedding, tokens, axis=0).astype(self.dtype)  # [B, S, D]
    buckets = distance_buckets(tokens.shape[1], c.buckets, c.max_distance)
    bias = by_bucket[buckets].transpose(2, 0, 1)  # [N, S, S]
    stack = scanned(T5Block, c, c.layers)
    x, _ = stack(c, self.dtype, name='layers')(x, bias, present)
    return RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name='norm')(x)


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
  """The bucket of the distance from each token to each other one.

  Distances below a quarter of the buckets have one each, longer ones share some, spaced by their
  logarithm; those ahead and those behind are told apart.

  Returns:
    i32[length, length], query by key.
  """
  half = buckets // 2
  exact = half // 2
  places = np.arange(length)
  ahead = places[None] - places[:, None]
  distance = np.abs(ahead)
  # In fp32 as the original computes it, for a distance may lie on the border of two buckets.
  ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
  scaled = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
  spaced = np.minimum(exact + scaled.astype(np.int32), half - 1)
  return (np.where(distance < exact, distance, spaced) + half * (ahead > 0)).astype(np.int32)


class T5Block(nn.Module):
  """Pre-norm attention with a bias by distance, and the gated MLP."""

  config: T5Config
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array, present: jax.Array
               ) -> tuple[jax.Array, None]:
    """f[B, S, D], f32[N, S, S] and bool[B, S] -> f[B, S, D]; scanned, hence the None."""
    c = self.config
    x = constrained(x, ('rows', 'tokens', 'act_embed'))
    normed = RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name='attention_norm')(x)
    x = x + T5Attention(c, self.dtype, name='attention')(normed, bias, present)
    normed = RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name='mlp_norm')(x)
    mlp = GatedMLP(c.mlp, activation=gelu_tanh, dtype=self.dtype, name='mlp')
    return x + mlp(normed), None


class T5Attention(nn.Module):
  """Attention without scaling. ``attend`` takes no bias, and a text is short enough to do without
  its kernels."""

  config: T5Config
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array, present: jax.Array) -> jax.Array:
    """See ``T5Block``."""
    c = self.config
    q, k, v = (Linear((c.heads, c.head_channels), ('embed', 'heads', 'head_dim'), use_bias=False,
                      dtype=self.dtype, name=name)(x) for name in 'qkv')  # [B, S, N, H]
    scores = jnp.einsum('BLNH,BSNH->BNLS', q, k, preferred_element_type=jnp.float32) + bias
    scores = jnp.where(present[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = nn.softmax(scores).astype(self.dtype)
    out = jnp.einsum('BNLS,BSNH->BLNH', weights, v)
    return Linear((c.width,), ('heads', 'head_dim', 'embed'), inputs=2, use_bias=False,
                  dtype=self.dtype, name='out')(out)
