"""The measure of parity itself: an honest difference in rounding passes, mistakes do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.transforms import LINEAR
from tests.models import parity


class Net(torch.nn.Module):
  """A norm in fp32 whatever the dtype, keys whose bias has no gradient, and an output."""

  def __init__(self):
    super().__init__()
    torch.manual_seed(0)
    self.up, self.keys, self.down = (torch.nn.Linear(64, 64) for _ in range(3))

  def forward(self, x):
    x = torch.nn.functional.layer_norm(x.float(), (64,)).to(x.dtype)
    weights = torch.softmax(x @ self.keys(x).mT / 8, dim=-1, dtype=torch.float32).to(x.dtype)
    return self.down(torch.tanh(self.up(weights @ x)))


RULES = [rule for name in ('up', 'keys', 'down') for rule in (
    Rule(f'{name}/kernel', f'{name}.weight', LINEAR), Rule(f'{name}/bias', f'{name}.bias'))]
BATCH = dict(x=np.random.default_rng(0).normal(size=(12, 64)).astype(np.float32))


def params_of(model):
  return {name: dict(kernel=part.weight.detach().numpy().T, bias=part.bias.detach().numpy())
          for name, part in model.named_children()}


def in_pieces(x, kernel):
  """A product whose sums go by pieces of eight, the last one first: other roundings."""
  pieces = jnp.einsum('BPK,PKD->PBD', x.reshape(-1, 8, 8), kernel.reshape(8, 8, -1))
  return sum(pieces[::-1])


def forward(params, x, epsilon=1e-5, width=64.0):
  """``Net`` once more."""
  def linear(name, x):
    return in_pieces(x, params[name]['kernel']) + params[name]['bias']

  x = x - x.mean(axis=-1, keepdims=True)
  x = x / jnp.sqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)
  weights = jax.nn.softmax(x @ linear('keys', x).T / jnp.sqrt(width), axis=-1)
  return linear('down', jnp.tanh(linear('up', weights @ x)))


def compare(function):
  model = Net()
  parity.assert_same_with_gradients(
      lambda variables, batch: function(variables['params'], **batch), params_of(model), BATCH,
      model, lambda model, x: model(x), RULES, ('x',))


def test_other_roundings_pass():
  compare(forward)
  model = Net()
  parity.assert_near(forward(params_of(model), **BATCH),
                     parity.theirs(model, lambda model, x: model(x), **BATCH))
  assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def one_channel(params, x):
  return forward(params, x).at[:, 3].multiply(1 + 1e-3)


def one_gradient(params, x):
  """Right outputs, but the gradient of one bias lacks a thousandth."""
  bias = params['up']['bias']
  short = 0.999 * bias + jax.lax.stop_gradient(0.001 * bias)
  return forward(params | dict(up=params['up'] | dict(bias=short)), x)


def one_gradient_of_the_input(params, x):
  return forward(params, x.at[4].set(0.999 * x[4] + jax.lax.stop_gradient(0.001 * x[4])))


MISTAKES = {
    'output': one_channel,
    r"parameters\['up.bias'\]": one_gradient,
    r"inputs\['x'\]": one_gradient_of_the_input,
    'output: in norm': lambda params, x: forward(params, x, epsilon=1e-4),
    'output: at worst': lambda params, x: forward(params, x, width=63.99),
}


@pytest.mark.parametrize('where', MISTAKES)
def test_mistakes_are_found_and_named(where):
  with pytest.raises(AssertionError, match=where):
    compare(MISTAKES[where])


def test_halves_are_no_fp32():
  with pytest.raises(AssertionError, match='from float64, the class'):
    compare(lambda params, x: forward(*jax.tree.map(jnp.bfloat16, (params, x))).astype(x.dtype))
