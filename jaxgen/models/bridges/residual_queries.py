"""Residual query adapter of IOMM: learned queries that read the prompt before the MLLM does.

Source: paper section 3.3, ledger L088 and A17. One pre-norm block: cross-attention of the queries
to the states, then an MLP; the result enters the MLLM's input behind the prompt.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.bridges.queries import Queries
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.norms import LayerNorm


@dataclasses.dataclass(frozen=True)
class ResidualQueriesConfig:
  """Sizes of the adapter.

  Attributes:
    width: D, channels of the MLLM.
    queries: Q, learned queries of each segment.
    heads: N of the cross-attention.
    mlp_ratio: F / D.
  """

  width: int
  queries: int = 256
  heads: int = 12
  mlp_ratio: float = 4.0

  def __post_init__(self):
    where = 'config.model.bridge'
    if self.width % self.heads:
      raise user_error(f'{where}.heads', self.heads, f'must divide width = {self.width}')
    if self.queries < 1:
      raise user_error(f'{where}.queries', self.queries, 'must be at least 1')


class ResidualQueries(Queries):
  """Learned queries enriched by the states of their own segment."""

  config: ResidualQueriesConfig

  @nn.compact
  def __call__(self, states: jax.Array, segments: jax.Array, groups: int) -> jax.Array:
    """f[B, G, Q, D] of the states f[B, S, D] and their segments i32[B, S]; see ``Queries``.

    The MLP of a fresh adapter adds exactly nothing, because its last linear starts at zero.
    """
    c, rows = self.config, states.shape[0]
    queries = self.param(
        'queries', nn.with_logical_partitioning(normal(0.02), ('queries', 'embed')),
        (c.queries, c.width), jnp.float32)
    # The queries of all segments lie side by side, those of segment 1 first.
    x = jnp.tile(queries.astype(self.dtype), (rows, groups, 1))  # [B, G Q, D]
    own = query_segment_ids(rows, groups, c.queries)  # [B, G Q]

    def project(name, tokens):
      return Linear((c.heads, c.width // c.heads), ('embed', 'heads', 'head_dim'),
                    dtype=self.dtype, name=name)(tokens)

    normed_queries = LayerNorm(axis='embed', dtype=self.dtype, name='query_norm')(x)
    normed_states = LayerNorm(axis='embed', dtype=self.dtype, name='state_norm')(states)
    q = project('q', normed_queries)  # [B, G Q, N, H]
    k, v = (project(name, normed_states) for name in 'kv')  # [B, S, N, H]
    attended = attend(q, k, v, q_segments=own, kv_segments=segments)  # [B, G Q, N, H]
    x = x + Linear((c.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=self.dtype,
                   name='attention_out')(attended)
    normed = LayerNorm(axis='embed', dtype=self.dtype, name='mlp_norm')(x)
    x = x + MLP(int(c.width * c.mlp_ratio), down_init=zeros, dtype=self.dtype, name='mlp')(normed)
    return x.reshape(rows, groups, c.queries, c.width)


def query_segment_ids(rows: int, groups: int, queries: int) -> jax.Array:
  """i32[rows, groups * queries]: 1 for the first ``queries``, 2 for the next, and so on."""
  ids = jnp.repeat(jnp.arange(1, groups + 1, dtype=jnp.int32), queries)
  return jnp.broadcast_to(ids, (rows, groups * queries))
