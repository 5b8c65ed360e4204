"""Residual query adapter of IOMM: learned queries that read the prompt before the MLLM does.

Source: paper section 3.3, ledger L088 and A17. One pre-norm block: cross-attention of the queries
to the states, then an MLP; the result is appended to the MLLM's input sequence.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
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


class ResidualQueries(nn.Module):
  """Learned queries enriched by the states of their own segment.

  Attributes:
    config: sizes.
    dtype: of the computation.
  """

  config: ResidualQueriesConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, states: jax.Array, segments: jax.Array, groups: int) -> jax.Array:
    """Gives every segment of a row its queries.

    Args:
      states: f[B, S, D], embedded prompt.
      segments: i32[B, S], 0 = padding.
      groups: G, segments of a row; every row gets G x Q queries, also for absent segments.

    Returns:
      f[B, G * Q, D], the Q queries of segment 1 first. The MLP of a fresh adapter adds exactly
      nothing, because its last linear starts at zero.
    """
    config, dtype = self.config, self.dtype
    queries = self.param(
        'queries', nn.with_logical_partitioning(normal(0.02), ('queries', 'embed')),
        (config.queries, config.width), jnp.float32)
    x = jnp.tile(queries.astype(dtype), (states.shape[0], groups, 1))
    query_segments = query_segment_ids(states.shape[0], groups, config.queries)

    heads = (config.heads, config.width // config.heads)
    names = ('embed', 'heads', 'head_dim')
    normed_queries = LayerNorm(axis='embed', dtype=dtype, name='query_norm')(x)
    normed_states = LayerNorm(axis='embed', dtype=dtype, name='state_norm')(states)
    q = Linear(heads, names, dtype=dtype, name='q')(normed_queries)
    k = Linear(heads, names, dtype=dtype, name='k')(normed_states)
    v = Linear(heads, names, dtype=dtype, name='v')(normed_states)
    attended = attend(q, k, v, q_segments=query_segments, kv_segments=segments)
    x = x + Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=dtype,
                   name='attention_out')(attended)
    normed = LayerNorm(axis='embed', dtype=dtype, name='mlp_norm')(x)
    hidden = int(config.width * config.mlp_ratio)
    return x + MLP(hidden, down_init=zeros, dtype=dtype, name='mlp')(normed)


def query_segment_ids(rows: int, groups: int, queries: int) -> jax.Array:
  """i32[rows, groups * queries]: 1 for the first ``queries``, 2 for the next, and so on."""
  ids = jnp.repeat(jnp.arange(1, groups + 1, dtype=jnp.int32), queries)
  return jnp.broadcast_to(ids, (rows, groups * queries))
