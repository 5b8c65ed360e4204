"""Feed-forward layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.layers.linear import Activation
from jaxgen.models.layers.linear import Initializer
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import xavier


def gelu_tanh(x: jax.Array) -> jax.Array:
  """GELU in its tanh approximation."""
  return nn.gelu(x, approximate=True)


def gelu_quick(x: jax.Array) -> jax.Array:
  """GELU as ``x * sigmoid(1.702 x)``, which CLIP was trained with."""
  return x * nn.sigmoid(1.702 * x)


def gelu_exact(x: jax.Array) -> jax.Array:
  """GELU with the error function."""
  return nn.gelu(x, approximate=False)


# By the names that transformers' configs give them.
ACTIVATIONS: dict[str, Activation] = {
    'gelu': gelu_exact, 'gelu_pytorch_tanh': gelu_tanh, 'quick_gelu': gelu_quick}


def projected_states(states: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
  """Linear and GELU: states of a language model as cross attention reads them (L111).

  Cosmos' ``crossattn_proj``. Called in a module's ``__call__``, it adds a submodule ``projector``.

  Args:
    states: f[..., D].
    width: E.
    dtype: of the computation.

  Returns:
    f[..., E].
  """
  return gelu_exact(Linear((width,), ('cond', 'embed'), dtype=dtype, name='projector')(states))


class MLP(nn.Module):
  """Up, activation, down; f[..., D] -> f[..., D].

  Attributes:
    hidden: F.
    activation: of the hidden channels.
    use_bias: for both projections.
    down_init: initialiser of the last kernel; zeros make a residual branch start silent.
    dtype: of the computation.
  """

  hidden: int
  activation: Activation = gelu_tanh
  use_bias: bool = True
  down_init: Initializer = xavier
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    up = Linear((self.hidden,), ('embed', 'mlp'), use_bias=self.use_bias, dtype=self.dtype,
                name='up')
    down = Linear((x.shape[-1],), ('mlp', 'embed'), use_bias=self.use_bias,
                  kernel_init=self.down_init, activation=self.activation, dtype=self.dtype,
                  name='down')
    return down(up(x))


class GatedMLP(nn.Module):
  """``down(act(gate(x)) * up(x))``, with SiLU as in Qwen2; f[..., D] -> f[..., D].

  Attributes:
    hidden: F.
    use_bias: for the three projections.
    activation: of the gate.
    dtype: of the computation.
  """

  hidden: int
  use_bias: bool = False
  activation: Activation = nn.silu
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def up(name):
      return Linear((self.hidden,), ('embed', 'mlp'), use_bias=self.use_bias, dtype=self.dtype,
                    name=name)

    down = Linear((x.shape[-1],), ('mlp', 'embed'), use_bias=self.use_bias, dtype=self.dtype,
                  name='down')
    return down(self.activation(up('gate')(x)) * up('up')(x))
