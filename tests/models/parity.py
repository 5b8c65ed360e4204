"""What the parity tests of the models share: random weights and gradients."""

import flax.linen as nn
import jax
import numpy as np
import torch

from jaxgen.conversion import engine
from jaxgen.core import trees
from jaxgen.models import registry
from jaxgen.sharding.rules import rule


def random_params(module, seed=0, scale=0.15):
  """Parameters without the zeros of the initialisation, so that every one matters."""
  rng = np.random.default_rng(seed)
  return trees.map_named(
      lambda _, leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32),
      registry.param_shapes(module))


def load(model, rules, params):
  """Gives a torch model our weights, all of them and no others."""
  tensors = {name: torch.tensor(array) for name, array in engine.to_torch(rules, params).items()}
  model.load_state_dict(tensors, strict=True)
  return model


def count(module):
  """Number of parameters, without making them."""
  return sum(leaf.size for leaf in jax.tree.leaves(registry.param_shapes(module)))


def assert_same_gradients(rules, ours, model):
  """Our gradients by the parameters, under their names, equal those that torch holds."""
  ours = engine.to_torch(rules, ours)
  theirs = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
  # Some gradients are zero but for rounding: a bias of the keys moves all scores alike.
  rounding = 1e-6 * max(map(np.linalg.norm, theirs.values()))
  for name, expected in theirs.items():
    error = np.linalg.norm(ours[name] - expected)
    assert error <= 1e-3 * np.linalg.norm(expected) + rounding, (name, error)


def assert_axes_named(module):
  """Every dimension of every parameter has a known name; stacks, and they alone, have layers."""
  boxed = jax.eval_shape(lambda key: registry.init(module, key), jax.random.key(0))['params']
  shapes, names = nn.unbox(boxed), trees.flatten(nn.get_partition_spec(boxed))
  for path, leaf in trees.flatten(shapes).items():
    spec = names[path]
    assert len(spec) == leaf.ndim and all(map(rule, spec)), (path, spec)
    assert (spec[0] == 'layers') == ('blocks/' in path), (path, spec)
