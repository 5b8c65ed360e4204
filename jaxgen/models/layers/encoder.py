"""The pre-norm transformer block of ViT, DINO, SigLIP, CLIP and InternViT."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Activation
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.mlp import MLP
from jaxgen.models.layers.mlp import gelu_exact
from jaxgen.models.layers.norms import LayerNorm
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.sharding.partition import constrained


class EncoderBlock(nn.Module):
  """Layer norm and attention, layer norm and MLP, each added to the stream.

  Attributes:
    heads: N.
    mlp: F.
    activation: of the MLP.
    qkv_bias: biases on the three input projections of attention.
    qk_norm: RMS norm of queries and keys over all heads together.
    norm_eps: epsilon of every norm.
    layer_scale: initial value of a learned scale of each branch; 0 = no such scale.
    dtype: of the computation.
  """

  heads: int
  mlp: int
  activation: Activation = gelu_exact
  qkv_bias: bool = True
  qk_norm: bool = False
  norm_eps: float = 1e-6
  layer_scale: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, segments: jax.Array | None,
               positions: jax.Array | None = None) -> tuple[jax.Array, None]:
    """Maps f[B, L, D] to the same; scanned, hence the None.

    Args:
      x: f[B, L, D].
      segments: i32[B, L], or None: every token sees every token of its row.
      positions: i32[B, L], given for causal attention.
    """
    x = constrained(x, ('rows', 'tokens', 'act_embed'))
    normed = self._layer_norm('attention_norm', x)
    x = x + self._scaled('attention_scale', self._attention(normed, segments, positions))
    mlp = MLP(self.mlp, activation=self.activation, dtype=self.dtype, name='mlp')
    return x + self._scaled('mlp_scale', mlp(self._layer_norm('mlp_norm', x))), None

  def _layer_norm(self, name, x):
    return LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name=name)(x)

  def _scaled(self, name, x):
    if not self.layer_scale:
      return x
    init = nn.with_logical_partitioning(nn.initializers.constant(self.layer_scale), ('embed',))
    return self.param(name, init, (x.shape[-1],), jnp.float32).astype(self.dtype) * x

  def _attention(self, x, segments, positions):
    return EncoderAttention(self.heads, self.qkv_bias, self.qk_norm, self.norm_eps, self.dtype,
                            name='attention')(x, segments, positions)


class EncoderAttention(nn.Module):
  """Attention within segments; see ``EncoderBlock`` for the attributes."""

  heads: int
  qkv_bias: bool
  qk_norm: bool
  norm_eps: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, segments: jax.Array | None,
               positions: jax.Array | None) -> jax.Array:
    """f[B, L, D] -> f[B, L, D]."""
    width = x.shape[-1]

    def project(name):
      return Linear((self.heads, width // self.heads), ('embed', 'heads', 'head_dim'),
                    use_bias=self.qkv_bias, dtype=self.dtype, name=name)(x)

    q, k, v = project('q'), project('k'), project('v')
    if self.qk_norm:
      q, k = (self._norm(name, y) for name, y in (('q_norm', q), ('k_norm', k)))
    out = attend(q, k, v, q_segments=segments, kv_segments=segments, q_positions=positions,
                 kv_positions=positions)
    return Linear((width,), ('heads', 'head_dim', 'embed'), inputs=2, dtype=self.dtype,
                  name='out')(out)

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    """Normalises over all heads together: f[B, L, N, H] -> f[B, L, N, H]."""
    flat = x.reshape(*x.shape[:-2], -1)
    return RMSNorm(epsilon=self.norm_eps, dtype=self.dtype, name=name)(flat).reshape(x.shape)
