"""Parity with a torch class: ours must be as near to the class in float64 as the class itself is.

The class runs twice, in fp32 and in float64 (``float64.py``). The distance between the two is what
fp32 rounding does to this function with these weights, on this processor; ours, in fp32, may be
``MULTIPLE`` times as far from float64. No tolerance is written down for a model, and none depends
on how large its values are.
"""

import copy
import dataclasses
import functools
from typing import Any
from typing import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxgen.conversion import engine
from jaxgen.core import trees
from jaxgen.models import registry
from jaxgen.sharding.rules import rule
from tests.models import float64

# How many times further than the class's own rounding ours may be, and what is allowed besides,
# in fp32 epsilons of the values: a class may be exact by luck, where a sum has few terms.
MULTIPLE = 8.0
FLOOR = 4.0
EPSILON = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class Theirs:
  """What a class gives.

  Attributes:
    exact: arrays f64, or a pytree of them, of the class in float64.
    rounded: the same in fp32.
  """

  exact: Any
  rounded: Any


def theirs(model: torch.nn.Module, run: Callable, *args, **kwargs) -> Theirs:
  """Runs a class in fp32 and in float64.

  Args:
    model: in fp32; it is copied, and left alone.
    run: ``run(model, *args, **kwargs)`` -> a tensor or a pytree of tensors.
    *args: arrays, which become tensors; those of fp32 become float64 ones in the second run.
    **kwargs: likewise.
  """
  return _twice(model, lambda model, tensor: run(
      model, *jax.tree.map(tensor, args), **jax.tree.map(tensor, kwargs)))


def assert_near(ours: Any, expected: Theirs, where: str = '', together: bool = False):
  """Each of our arrays is as near to float64 as the class is, by norm and at its worst element.

  Args:
    ours: pytree of arrays like ``expected.exact``.
    where: name of the whole, for the message.
    together: the floor is that of the largest array of all. Gradients need it: that of a bias of
      keys is zero but for rounding, because it moves all scores alike.
  """
  exact, structure = jax.tree_util.tree_flatten_with_path(expected.exact)
  assert jax.tree.structure(ours) == structure, (jax.tree.structure(ours), structure)
  ours, rounded = jax.tree.leaves(ours), jax.tree.leaves(expected.rounded)
  failures = []
  for kind, norm in (('in norm', np.linalg.norm), ('at worst', _greatest)):
    sizes = [norm(reference.ravel()) for _, reference in exact]
    for (path, reference), own, array, size in zip(exact, rounded, ours, sizes, strict=True):
      assert np.shape(array) == reference.shape, (path, np.shape(array), reference.shape)
      distance = norm((np.asarray(array, np.float64) - reference).ravel())
      rounding = norm((own - reference).ravel())
      floor = FLOOR * EPSILON * (max(sizes) if together else size)
      if not distance <= MULTIPLE * rounding + floor:
        failures.append(
            f'{where}{jax.tree_util.keystr(path)}: {kind} ours is {distance:.3g} from float64, '
            f'the class {rounding:.3g}; values {size:.3g}')
  assert not failures, '\n'.join(failures)


def assert_same_with_gradients(apply: Callable, params: Any, batch: dict, model: torch.nn.Module,
                               run: Callable, rules: engine.Rules, inputs: tuple[str, ...]):
  """Outputs and gradients of a mean square, with respect to some inputs and every parameter.

  Args:
    apply: ``apply({'params': params}, batch)``; compiled once if it is the same object again.
    params: ours; ``model`` holds the same under the names of ``rules``.
    batch: inputs of ours.
    model: in fp32; parameters that need no gradient are left out.
    run: ``run(model, **tensors)`` of the named inputs -> a tensor shaped as our output.
    inputs: names of the arrays in ``batch`` to differentiate with respect to.
  """
  chosen = {name: batch[name] for name in inputs}
  shape = jax.eval_shape(apply, {'params': params}, batch).shape
  target = np.random.default_rng(2).normal(size=shape).astype(np.float32)
  expected = _twice(model, functools.partial(_differentiate, run, chosen, target))
  (by_params, by_inputs), output = _differentiated(apply)(
      params, chosen, {name: x for name, x in batch.items() if name not in inputs}, target)
  assert np.abs(expected.exact['output']).mean() > 0.1
  by_params = engine.to_torch(rules, by_params)
  ours = dict(output=output, inputs=by_inputs, parameters={
      name: by_params[name] for name in expected.exact['parameters']})
  for part, arrays in ours.items():
    own = Theirs(expected.exact[part], expected.rounded[part])
    assert_near(arrays, own, where=part, together=part != 'output')


def _differentiate(run, inputs, target, model, tensor) -> dict:
  """Output of a class and its gradients, zeros where a parameter reaches nothing."""
  inputs = {name: tensor(array).requires_grad_() for name, array in inputs.items()}
  parameters = {name: parameter for name, parameter in model.named_parameters()
                if parameter.requires_grad}
  output = run(model, **inputs)
  loss = torch.mean((output - tensor(target)) ** 2)
  leaves = [*inputs.values(), *parameters.values()]
  gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
  return dict(output=output, inputs=dict(zip(inputs, gradients)),
              parameters=dict(zip(parameters, gradients[len(inputs):], strict=True)))


@functools.cache
def _differentiated(apply):
  """Gradients with respect to parameters and inputs, and the output, in one program."""
  def loss(params, inputs, others, target):
    output = apply({'params': params}, inputs | others)
    return jnp.mean(jnp.square(output - target)), output

  return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


def _twice(model, outputs) -> Theirs:
  """``outputs(model, tensor)`` in fp32 and in float64; ``tensor`` makes one of an array."""
  with float64.our_time_frequencies():
    rounded = outputs(copy.deepcopy(model), torch.tensor)
    with float64.throughout():
      exact = outputs(float64.doubled(model), torch.tensor)
  rounded, exact = (jax.tree.map(lambda x: x.detach().numpy(), tree) for tree in (rounded, exact))
  assert all(array.dtype == np.float64 for array in jax.tree.leaves(exact))
  return Theirs(exact, rounded)


def _greatest(values: np.ndarray) -> float:
  return np.abs(values).max(initial=0)


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


def assert_axes_named(module):
  """Every dimension of every parameter has a known name; stacks, and they alone, have layers."""
  boxed = jax.eval_shape(lambda key: registry.init(module, key), jax.random.key(0))['params']
  shapes, names = nn.unbox(boxed), trees.flatten(nn.get_partition_spec(boxed))
  for path, leaf in trees.flatten(shapes).items():
    spec = names[path]
    assert len(spec) == leaf.ndim and all(map(rule, spec)), (path, spec)
    assert (spec[0] == 'layers') == ('blocks/' in path), (path, spec)
