"""CLIP's text encoder: causal blocks, and one vector for the whole text from its end token.

SigLIP's is the same in both directions, and its vector is that of the last token.
"""

import dataclasses
from typing import Any
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.encoder import EncoderBlock
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.mlp import ACTIVATIONS
from jaxgen.models.layers.norms import LayerNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import scanned

# Configs older than transformers 4.31 name this id, whatever the end token of their tokenizer is.
OLD_EOS = 2

CLIP_L: dict[str, Any] = dict(family='clip_text', vocab=49408, width=768, layers=12, heads=12,
                              mlp=3072)


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
  """Sizes of the encoder.

  Attributes:
    vocab: V.
    width: D.
    layers: number of blocks.
    heads: N.
    mlp: F.
    positions: longest text in tokens.
    activation: of the MLPs, a key of ``ACTIVATIONS``, named as transformers does.
    norm_eps: epsilon of every norm.
    eos_id: the end token; 2 = the old rule, where the end token is the largest id of the text.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  vocab: int
  width: int
  layers: int
  heads: int
  mlp: int
  positions: int = 77
  activation: str = 'quick_gelu'
  norm_eps: float = 1e-5
  eos_id: int = OLD_EOS
  remat: str = 'none'
  unroll: int = 1

  causal: ClassVar[bool] = True  # see ``TextConfig``

  def __post_init__(self):
    where = 'config.model.text_encoder_2'
    if self.width % self.heads:
      raise user_error(f'{where}.heads', self.heads, f'must divide width = {self.width}')
    if self.activation not in ACTIVATIONS:
      raise user_error(f'{where}.activation', self.activation,
                       f'must be one of {sorted(ACTIVATIONS)}')
    check_scan(f'{where}.', self)


@dataclasses.dataclass(frozen=True)
class TextConfig(ClipTextConfig):
  """Sizes of the text encoder of CLIP or SigLIP.

  Attributes:
    causal: tokens see those before them, and the state of the end token is that of the text.
      Otherwise all tokens see each other, padding included, and the last one is that of the text.
  """

  causal: bool = True


class ClipText(nn.Module):
  """Texts to token states and pooled vectors; each row is one text."""

  config: ClipTextConfig
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def example(self) -> tuple[jax.Array]:
    """The smallest arguments of ``__call__``: one token."""
    return (jnp.zeros((1, 1), jnp.int32),)

  @nn.compact
  def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes texts; in CLIP, what stands behind the end token changes neither it nor what is
    before.

    Args:
      tokens: i32[B, S] from the start token on, padded on the right.

    Returns:
      ``(f[B, S, D], f[B, D])``: states after the final norm, and that of the end token (in SigLIP
      of the last one).
    """
    c = self.config
    rows, length = tokens.shape
    assert length <= c.positions, (tokens.shape, c)
    embedding = self.param(
        'embedding', nn.with_logical_partitioning(normal(0.02), ('vocab', 'embed')),
        (c.vocab, c.width), jnp.float32)
    positions = self.param(
        'positions', nn.with_logical_partitioning(normal(0.01), ('positions', 'embed')),
        (c.positions, c.width), jnp.float32)
    # [B, S, D]
    x = (jnp.take(embedding, tokens, axis=0) + positions[:length]).astype(self.dtype)
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    stack = scanned(EncoderBlock, c, c.layers)
    x, _ = stack(c.heads, c.mlp, ACTIVATIONS[c.activation], norm_eps=c.norm_eps,
                 dtype=self.dtype, name='layers')(x, None, places if c.causal else None)
    x = LayerNorm(epsilon=c.norm_eps, dtype=self.dtype, name='norm')(x)
    if not c.causal:
      return x, x[:, -1]
    end = jnp.argmax(tokens if c.eos_id == OLD_EOS else tokens == c.eos_id, axis=1)
    return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
