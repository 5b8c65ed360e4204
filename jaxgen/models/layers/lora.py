"""Low-rank adapters (LoRA) of any ``Linear``, as parameters beside its kernel.

A ``Linear`` that finds ``lora/a``, ``lora/b`` and ``lora/alpha`` next to its ``kernel`` adds
``x @ a @ b * alpha / rank``. So an adapted model is the same module with more parameters: what
trains is a matter of ``config.trainable`` (``('.*/lora/[ab]', True)``), stacked layers and heads
need nothing of their own, and everything here is a function over parameter trees. A system gets
them from ``config.model.lora``.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.models.layers.linear import input_dims
from jaxgen.models.layers.linear import linear_kernels

TRAINABLE = r'.*/lora/[ab]'  # the leaves that learn; ``alpha`` is a constant


@dataclasses.dataclass(frozen=True)
class LoRA:
  """One group of modules and the size of their adapters.

  Attributes:
    modules: regex that matches the whole path of a ``Linear`` (``layers/attention/(q|k|v)``).
    rank: r.
    alpha: the adapter's output is multiplied by alpha / rank.
  """

  modules: str
  rank: int
  alpha: float

  def __post_init__(self):
    if self.rank < 1:
      raise user_error('LoRA rank', self.rank, 'must be at least 1')


def attach(boxed: trees.Tree, rng: jax.Array, groups: Sequence[LoRA]) -> dict[str, Any]:
  """Adds adapters, which change nothing until they are trained: ``b`` starts at zero.

  Args:
    boxed: parameters of a module, or of several under their groups, with their logical axes.
    rng: key of the initial ``a``, uniform within 1 / sqrt(inputs) as PEFT has it; a module's
      does not depend on which others there are.
    groups: of several that match a module the first counts.

  Returns:
    The tree with ``lora/{a,b,alpha}`` beside the kernels.
  """
  flat = trees.flatten(boxed)
  axes = {path: leaf.names for path, leaf in flat.items()}
  for module, group in _matches(axes, groups).items():
    if group is not None:
      key = jax.random.fold_in(rng, zlib.crc32(module.encode()))
      adapter = _adapter(flat[f'{module}/kernel'], key, group)
      flat |= {f'{module}/lora/{name}': leaf for name, leaf in adapter.items()}
  return trees.unflatten(flat)


def check_used(axes: trees.Tree, groups: Sequence[LoRA]) -> None:
  """Raises a ``UserError`` for a group that adapts nothing.

  Args:
    axes: tuples of logical names of all parameters, under their groups.
    groups: as ``attach`` takes them.
  """
  found = _matches(trees.flatten(axes), groups)
  for group in groups:
    if group not in found.values():
      raise user_error('config.model.lora', group.modules, 'matches no linear module that another '
                       f'entry does not match before; there are {sorted(found)[:3]} and so on')


def split(params: trees.Tree) -> tuple[Params, Params]:
  """``(parameters without adapters, adapters)``; ``trees.merge`` puts them together again."""
  is_base = {path: not is_adapter(path) for path in trees.flatten(params)}
  return trees.partition(params, is_base)


def is_adapter(path: str) -> bool:
  """Whether a parameter path belongs to an adapter."""
  return '/lora/' in f'/{path}'


def is_fixed(path: str, paths: Container[str]) -> bool:
  """Whether a parameter of a module with an adapter, and so frozen; ``paths`` are those of all."""
  module = path.rpartition('/lora/')[0] if is_adapter(path) else path.rpartition('/')[0]
  return f'{module}/lora/a' in paths and not re.fullmatch(TRAINABLE, path)


def merge(params: trees.Tree) -> Params:
  """Adds the product ``a b`` of every adapter to its kernel and drops the adapters."""
  flat, low = (trees.flatten(part) for part in split(params))
  for module in sorted({path.rpartition('/lora/')[0] for path in low}):
    kernel = flat[f'{module}/kernel']
    product = delta(*(low[f'{module}/lora/{name}'] for name in ('a', 'b', 'alpha')))
    flat[f'{module}/kernel'] = (kernel + product.reshape(kernel.shape)).astype(kernel.dtype)
  return trees.unflatten(flat)


def _matches(axes: Mapping[str, tuple[str, ...]], groups: Sequence[LoRA]
             ) -> dict[str, LoRA | None]:
  """The first group that matches, for the path of each linear module."""
  modules = [path.removesuffix('/kernel') for path in linear_kernels(axes)]
  return {module: next((group for group in groups if re.fullmatch(group.modules, module)), None)
          for module in modules}


def _adapter(kernel: nn.LogicallyPartitioned, rng: jax.Array, group: LoRA) -> dict[str, Any]:
  """Boxed ``a``, ``b`` and ``alpha`` for a boxed kernel [layers?, *inputs, *features]."""
  shape, names = kernel.value.shape, kernel.names
  layers = 1 if names[0] == 'layers' else 0
  split_at = layers + input_dims(names[layers:])
  stack, inputs, features = shape[:layers], shape[layers:split_at], shape[split_at:]
  bound = 1 / math.sqrt(math.prod(inputs))
  a = jax.random.uniform(rng, (*stack, *inputs, group.rank), jnp.float32, -bound, bound)
  b = jnp.zeros((*stack, group.rank, *features), jnp.float32)

  def box(value, names):
    return kernel.replace(value=value, names=names)

  return dict(a=box(a, (*names[:split_at], 'lora')),
              b=box(b, (*names[:layers], 'lora', *names[split_at:])),
              alpha=box(jnp.full(stack, group.alpha, jnp.float32), names[:layers]))


def delta(a: Any, b: Any, alpha: Any) -> Any:
  """What an adapter adds to its kernel, f[layers?, inputs, features]; numpy or JAX arrays.

  Args:
    a: f[layers?, *inputs, r].
    b: f[layers?, r, *features].
    alpha: f[layers?].
  """
  rank, stack = a.shape[-1], alpha.shape
  scale = (alpha.astype(jnp.float32) / rank).reshape(*stack, 1, 1)
  return a.reshape(*stack, -1, rank) @ b.reshape(*stack, rank, -1) * scale
