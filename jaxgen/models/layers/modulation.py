"""Adaptive layer norm: one vector per segment modulates every token of that segment."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.layers.linear import Activation
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.norms import recomputed
from jaxgen.models.layers.norms import standardise
from jaxgen.models.layers.segments import segment_one_hot


def per_token(vectors: jax.Array, segments: jax.Array) -> jax.Array:
  """Gives each token the vector of its segment, or of its modulation id.

  Args:
    vectors: f[B, G, D], entry g belongs to segment g + 1.
    segments: i32[B, L], 0 = padding.

  Returns:
    f[B, L, D], zeros for padding; f[B, 1, D], which broadcasts, where a row has one segment.
  """
  groups = vectors.shape[1]
  if groups == 1:
    return vectors
  # A one-hot matmul is exact and, unlike a gather, has a matmul as its gradient.
  chosen = segment_one_hot(segments, groups, vectors.dtype)  # [B, L, G]
  return jnp.einsum('BLG,BGD->BLD', chosen, vectors, precision=jax.lax.Precision.HIGHEST)


class Modulation(nn.Module):
  """Activation and linear of the segment vectors, split in chunks and spread over the tokens.

  The projection runs in fp32 on B x G vectors, so the time path loses nothing before here.

  Attributes:
    chunks: how many shifts, scales and gates.
    dtype: of the chunks.
    width: D, channels of a chunk; 0 = those of a vector.
    activation: of the vectors.
  """

  chunks: int
  dtype: jnp.dtype = jnp.float32
  width: int = 0
  activation: Activation = nn.silu

  @nn.compact
  def __call__(self, vectors: jax.Array, segments: jax.Array) -> list[jax.Array]:
    """Returns ``chunks`` arrays f[B, L or 1, D] for vectors f32[B, G, V]."""
    width = self.width or vectors.shape[-1]
    out = Linear((self.chunks * width,), ('embed', 'mlp'), kernel_init=zeros, name='linear')(
        self.activation(vectors.astype(jnp.float32)))  # [B, G, chunks D]
    return [per_token(chunk.astype(self.dtype), segments)
            for chunk in jnp.split(out, self.chunks, axis=-1)]


@recomputed
def modulated_norm(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """``layer_norm(x) * (1 + scale) + shift`` without affine parameters; dtype of ``x``."""
  return standardise(x).astype(x.dtype) * (1 + scale) + shift
