"""FLOPs of a step, counted on its jaxpr.

Counts every matrix product and convolution as often as it runs, with scanned layers counted once
per layer; XLA's own cost analysis counts a scanned stack as a single layer. Elementwise operations
are left out, as is usual for MFU.
"""

import collections
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.types import Batch
from jaxgen.objectives.registry import make_objectives
from jaxgen.systems.registry import make_system
from jaxgen.training.state import Blueprint

# Matrix products of L x S x H per head. The backward pass has a fifth, which recomputes the scores
# of the forward pass and is not counted.
ATTENTION = {'attention_forward': 2, 'attention_backward': 4}


def step_flops(config: ConfigDict, blueprint: Blueprint, batch: Batch) -> dict[str, float]:
  """FLOPs of the forward and backward passes of one step over the global batch.

  The frozen autoencoder, which runs before the step, and the optimizer are not counted.

  Args:
    config: the run's config; rematerialisation is switched off for the count.
    blueprint: the run's blueprint.
    batch: any batch of the run, or its shapes.

  Returns:
    ``{'trained': FLOPs, 'frozen': FLOPs}``, see ``split_tally``.
  """
  split = split_tally(blueprint, step_tally(config, blueprint, batch))
  return {side: sum(kinds.values()) for side, kinds in split.items()}


def step_tally(config: ConfigDict, blueprint: Blueprint, batch: Batch, *,
               repeated: bool = False) -> collections.Counter[tuple[str, str]]:
  """FLOPs of a step by ``(parameter group, 'dense' or 'attention')``; '' is outside of all models.

  Args:
    config: the run's config.
    blueprint: the run's blueprint.
    batch: any batch of the run, or its shapes.
    repeated: whether to count rematerialisation as well, except for attention.
  """
  if not repeated:
    config = ConfigDict(config.to_dict())
    _keep_activations(config.model)
  system, objectives = make_system(config), make_objectives(config)

  def loss(params, frozen, batch):
    params = trees.merge(params, frozen)
    return sum(objective(system, params, batch, jax.random.key(0))[0]
               for objective, _ in objectives.values())

  # A system's models have the names of their groups.
  return tally_flops(jax.value_and_grad(loss), blueprint.state.params, blueprint.frozen, batch,
                     modules=blueprint.groups)


def split_tally(blueprint: Blueprint, tally: Mapping[tuple[str, str], float]
                ) -> dict[str, dict[str, float]]:
  """Splits a tally into ``{'trained', 'frozen'} -> {'dense', 'attention'} -> FLOPs``.

  Groups in which ``config.trainable`` leaves nothing to train count as frozen, and so do the
  gradients that pass through them.
  """
  frozen = {group for group in blueprint.groups if group not in blueprint.state.params}
  split = {side: dict(dense=0.0, attention=0.0) for side in ('trained', 'frozen')}
  for (group, kind), flops in tally.items():
    split['frozen' if group in frozen else 'trained'][kind] += flops
  return split


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
  """FLOPs of one call; traces ``function`` on the shapes of the arguments without running it.

  Rematerialised products are counted each time they run, so trace a function without remat. A
  ``while`` loop of unknown length counts once, and a conditional as its most expensive branch.
  """
  return sum(tally_flops(function, *arguments).values())


def tally_flops(function: Callable[..., Any], *arguments: Any, modules: Collection[str] = ()
                ) -> collections.Counter[tuple[str, str]]:
  """``count_flops`` by ``(outermost module, 'dense' or 'attention')``.

  ``modules`` are told apart by their names, or by their classes where they have none; '' is all
  that runs outside of them.
  """
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  # ``Linear`` has a gradient of its own, which writes down that of a frozen kernel too; compilers
  # leave it out, as nothing reads it.
  needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _tally(needed, '', modules)


def _keep_activations(section: ConfigDict) -> None:
  """Switches rematerialisation off in every model section."""
  for name, value in section.items():
    if isinstance(value, ConfigDict):
      _keep_activations(value)
    elif name == 'remat':
      section.remat = 'none'


def _tally(jaxpr: core.Jaxpr, scope: str, modules: Collection[str]
           ) -> collections.Counter[tuple[str, str]]:
  total = collections.Counter()
  for equation in jaxpr.eqns:
    name, own = equation.primitive.name, scope or _module(equation, modules)
    if name == 'dot_general':
      total[own, 'dense'] += _dot(equation)
    elif name == 'conv_general_dilated':
      total[own, 'dense'] += _convolution(equation)
    elif name in ATTENTION:
      q, k = (variable.aval.shape for variable in equation.invars[:2])
      total[own, 'attention'] += ATTENTION[name] * 2.0 * math.prod(q) * k[2]
    elif name == 'cond':
      total += max((_tally(branch.jaxpr, own, modules) for branch in equation.params['branches']),
                   key=lambda branch: sum(branch.values()))
    else:
      times = equation.params['length'] if name == 'scan' else 1
      for inner in _inner(equation):
        for key, flops in _tally(inner, own, modules).items():
          total[key] += times * flops
  return total


def _module(equation: core.JaxprEqn, modules: Collection[str]) -> str:
  """Outermost module: ``mllm`` for ``jvp(mllm.decode)/text/...``; '' outside of ``modules``."""
  outermost = str(equation.source_info.name_stack).split('/')[0]
  match = re.fullmatch(r'(?:\w+\()*(\w+)(?:\.\w+)?\)*', outermost)
  return match[1] if match and match[1] in modules else ''


def _inner(equation: core.JaxprEqn) -> list[core.Jaxpr]:
  """The jaxprs among an equation's parameters, under any name."""
  values = [value for value in equation.params.values()]
  closed = [value.jaxpr for value in values if isinstance(value, core.ClosedJaxpr)]
  return closed + [value for value in values if isinstance(value, core.Jaxpr)]


def _dot(equation: core.JaxprEqn) -> float:
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(
      left[dim] for dim in contracted)


def _convolution(equation: core.JaxprEqn) -> float:
  kernel = equation.invars[1].aval.shape
  outputs = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outputs
