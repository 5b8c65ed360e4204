"""Connectors: from the states of a language model to the channels that a denoiser reads."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.encoder import EncoderBlock
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.mlp import gelu_exact
from jaxgen.models.layers.mlp import gelu_tanh
from jaxgen.models.layers.mlp import projected_states
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import scanned


class Connector(nn.Module):
  """Reads packed states of a language model.

  Attributes:
    config: sizes; has ``width`` D and ``out_width``.
    dtype: of the computation.
    all_layers: reads the states of every layer; else the normed ones behind the last alone.
  """

  config: Any
  dtype: jnp.dtype = jnp.float32
  all_layers: ClassVar[bool] = False

  def __call__(self, states: jax.Array, segments: jax.Array) -> jax.Array:
    """Maps states token by token, or within their segments.

    Args:
      states: f[B, S, D], or f[layers + 1, B, S, D] where ``all_layers``.
      segments: i32[B, S], 0 = not seen.

    Returns:
      f[B, S, out_width].
    """
    raise NotImplementedError

  @nn.nowrap
  def example(self) -> tuple[jax.Array, jax.Array]:
    """The smallest arguments of ``__call__``: one token."""
    return jnp.zeros((1, 1, self.config.width)), jnp.ones((1, 1), jnp.int32)


@dataclasses.dataclass(frozen=True)
class MLPConnectorConfig:
  """Sizes of Query-Kontext's connector (L053, A09).

  Attributes:
    width: D of the language model.
    hidden: F.
    out_width: channels of the result.
  """

  width: int = 3584
  hidden: int = 960
  out_width: int = 2560


class MLPConnector(Connector):
  """Linear, GELU, linear on every token."""

  config: MLPConnectorConfig

  @nn.compact
  def __call__(self, states: jax.Array, segments: jax.Array) -> jax.Array:
    """f[B, S, D] -> f[B, S, out_width]; the segments i32[B, S] make no difference."""
    c = self.config
    up = Linear((c.hidden,), ('cond', 'mlp'), dtype=self.dtype, name='up')(states)  # [B, S, F]
    return Linear((c.out_width,), ('mlp', 'embed'), activation=gelu_exact, dtype=self.dtype,
                  name='down')(up)


@dataclasses.dataclass(frozen=True)
class EncoderConnectorConfig:
  """Sizes of OpenUni's connector, a SigLIP encoder and a linear (L143).

  Attributes:
    width: D of the language model and of the blocks.
    layers: number of blocks.
    heads: N.
    mlp: F.
    out_width: channels of the result.
    remat: as in ``CausalLMConfig``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  width: int = 1536
  layers: int = 6
  heads: int = 24
  mlp: int = 8960
  out_width: int = 2304
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    where = 'config.model.connector'
    if self.width % self.heads:
      raise user_error(f'{where}.heads', self.heads, f'must divide width = {self.width}')
    check_scan(f'{where}.', self)


class EncoderConnector(Connector):
  """Blocks in which the tokens of a segment see each other in both directions, then a linear."""

  config: EncoderConnectorConfig

  @nn.compact
  def __call__(self, states: jax.Array, segments: jax.Array) -> jax.Array:
    """f[B, S, D] and segments i32[B, S] -> f[B, S, out_width]."""
    c = self.config
    x, _ = scanned(EncoderBlock, c, c.layers)(
        c.heads, c.mlp, gelu_tanh, dtype=self.dtype, name='layers')(
            states.astype(self.dtype), segments)  # [B, S, D]
    return Linear((c.out_width,), ('embed', 'cond'), dtype=self.dtype, name='projector')(x)


@dataclasses.dataclass(frozen=True)
class LayersConnectorConfig:
  """Sizes of DuetGen's connector (L111, L140, A21).

  Attributes:
    width: D of the language model.
    layers: its blocks; the states of all of them are read.
    out_width: channels of the result.
  """

  width: int = 3584
  layers: int = 28
  out_width: int = 1024


class LayersConnector(Connector):
  """Every layer's states, normalised and side by side, through a linear and GELU."""

  config: LayersConnectorConfig
  all_layers = True

  @nn.nowrap
  def example(self) -> tuple[jax.Array, jax.Array]:
    """The smallest arguments of ``__call__``: one token, of every layer."""
    states, segments = super().example()
    return jnp.repeat(states[None], self.config.layers + 1, axis=0), segments

  @nn.compact
  def __call__(self, states: jax.Array, segments: jax.Array) -> jax.Array:
    """f[layers + 1, B, S, D], embeddings first -> f[B, S, out_width]; see ``joined_layers``."""
    c = self.config
    assert states.shape[0] == c.layers + 1 and states.shape[-1] == c.width, (states.shape, c)
    x = joined_layers(states).astype(self.dtype)  # [B, S, layers D]
    return projected_states(x, c.out_width, self.dtype)


def joined_layers(states: jax.Array) -> jax.Array:
  """The states of every block, each token of each layer normalised over its channels.

  Args:
    states: f[layers + 1, B, S, D], the embeddings, which are left out, first.

  Returns:
    f32[B, S, layers D], the first block's channels first.
  """
  blocks = states[1:].astype(jnp.float32)
  centred = blocks - jnp.mean(blocks, axis=-1, keepdims=True)
  # The deviation of a sample (over D - 1), as NVIDIA's code has it.
  deviation = jnp.std(blocks, axis=-1, keepdims=True, ddof=1)
  blocks = jnp.moveaxis(centred / (deviation + 1e-8), 0, 2)
  return blocks.reshape(*blocks.shape[:2], -1)
