"""Embeddings of the scalars and vectors behind the modulation; all of it in fp32."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import normal

TIME_FACTOR = 1000.0  # diffusion models of this family see t in [0, 1000]


def timestep_embedding(value: jax.Array, dim: int = 256, max_period: float = 10_000.0,
                       factor: float = TIME_FACTOR) -> jax.Array:
  """Sinusoidal features of ``factor * value``, cosines first, as FLUX has them.

  Args:
    value: f32[...], a time in [0, 1] or a guidance scale; half precision is refused, because
      bf16 has no number between 0.7500 and 0.7539.
    dim: channels of the result, even.
    max_period: longest period.
    factor: 1 where the model sees t in [0, 1], as Cosmos does.

  Returns:
    f32[..., dim].
  """
  assert value.dtype == jnp.float32, value.dtype
  angle = factor * value[..., None] * time_frequencies(dim // 2, max_period)
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def time_frequencies(count: int, max_period: float = 10_000.0) -> np.ndarray:
  """f32[count], the frequencies of ``timestep_embedding``; the same bits on every processor.

  Exponents are in fp32 as FLUX has them, the exponential is rounded once: a guidance scale of 5 is
  an angle of 5000, where an ulp of the frequency shows in the fourth decimal.
  """
  exponents = np.float32(-math.log(max_period)) * np.arange(count, dtype=np.float32)
  return np.exp((exponents / np.float32(count)).astype(np.float64)).astype(np.float32)


class VectorEmbedder(nn.Module):
  """Linear, SiLU, linear in fp32: features of one segment to the modulation vector.

  Attributes:
    width: D, channels of the result.
    input_axis: logical name of the input channels.
    hidden: channels between the two linears; 0 = D.
  """

  width: int
  input_axis: str = 'cond'
  hidden: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    x = Linear((self.hidden or self.width,), (self.input_axis, 'mlp'), kernel_init=normal(0.02),
               name='up')(x)
    return Linear((self.width,), ('mlp', 'embed'), kernel_init=normal(0.02), name='down')(
        nn.silu(x))
