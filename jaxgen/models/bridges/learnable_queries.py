"""Learnable queries: the same tokens behind every prompt, for the language model to fill.

Query-Kontext's kontext tokens (L049) and the MetaQueries of OpenUni (L143).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.bridges.queries import Queries
from jaxgen.models.layers.linear import normal


@dataclasses.dataclass(frozen=True)
class LearnableQueriesConfig:
  """Sizes.

  Attributes:
    width: D, channels of the MLLM.
    queries: Q, for each segment.
  """

  width: int
  queries: int = 128

  def __post_init__(self):
    if self.queries < 1:
      raise user_error('config.model.bridge.queries', self.queries, 'must be at least 1')


class LearnableQueries(Queries):
  """Queries that do not read the prompt: the same for every segment."""

  config: LearnableQueriesConfig

  @nn.compact
  def __call__(self, states: jax.Array, segments: jax.Array, groups: int) -> jax.Array:
    """f[B, G, Q, D]; of the states f[B, S, D] only B is read. See ``Queries``."""
    c = self.config
    queries = self.param(
        'queries', nn.with_logical_partitioning(normal(c.width**-0.5), ('queries', 'embed')),
        (c.queries, c.width), jnp.float32)
    return jnp.broadcast_to(queries.astype(self.dtype),
                            (states.shape[0], groups, c.queries, c.width))
