"""Low-rank adapters in PyTorch's layout, both ways, through the name table of their model.

An adapter of ours stands beside a kernel, so its names follow from the rule of that kernel, and
so do the orders of its input and output channels: the rule's transforms are asked where they put
every channel. Where one weight of theirs holds several kernels of ours (a fused qkv), their
adapters are joined: one below the other, block by block, which is exact.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.conversion import engine
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.mismatch import shorten

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Adapter:
  """One adapter in their layout: ``up @ down * alpha / rank`` is added to a weight (out, in).

  Attributes:
    down: f[r, in].
    up: f[out, r].
    alpha: as in ``LoRA``.
  """

  down: np.ndarray
  up: np.ndarray
  alpha: float

  @property
  def rank(self) -> int:
    return len(self.down)


def to_theirs(rules: engine.Rules, shapes: trees.Tree, adapters: trees.Tree
              ) -> dict[str, Adapter]:
  """Our adapters by the names of their modules.

  Args:
    rules: name table of the model.
    shapes: the model's parameters without adapters, leaves with ``.shape``.
    adapters: ``lora/{a,b,alpha}`` leaves, as ``layers.lora.split`` gives them.

  Raises:
    UserError: an adapter beside a kernel that is no matrix in their layout.
  """
  flat = {path: np.asarray(leaf) for path, leaf in trees.flatten(adapters).items()}
  parts = collections.defaultdict(list)
  for link in engine.places(rules, shapes):
    if _beside(link.path, 'a') in flat:
      a, b, alpha = (flat[_beside(link.path, name)] for name in ('a', 'b', 'alpha'))
      if link.layer is not None:
        a, b, alpha = a[link.layer], b[link.layer], alpha[link.layer]
      inputs, outputs = _channels(link)
      parts[link.theirs].append((link.rows, Adapter(
          a.reshape(-1, a.shape[-1])[inputs].T, b.reshape(len(b), -1)[:, outputs].T,
          float(alpha))))
  sizes = engine.names_and_shapes(rules, shapes)
  return {name.removesuffix('.weight'): _joined(sizes[name][0], own)
          for name, own in parts.items()}


def from_theirs(rules: engine.Rules, shapes: trees.Tree, adapters: Mapping[str, Adapter], *,
                where: str = 'adapters') -> dict[str, Any]:
  """Their adapters as ours: ``to_theirs`` backwards.

  Layers of one stack without an adapter, or with one of lower rank, are filled up with zeros,
  which changes nothing.

  Args:
    rules: name table of the model.
    shapes: the model's parameters without adapters.
    adapters: by the names of their modules.
    where: file named in errors.

  Returns:
    Tree of ``lora/{a,b,alpha}``, fp32.

  Raises:
    UserError: an adapter of a module that the model lacks, or of another size.
  """
  found = collections.defaultdict(dict)
  for link in engine.places(rules, shapes):
    module = link.theirs.removesuffix('.weight')
    if link.path.endswith('/kernel') and module in adapters:
      found[link.path][link.layer] = _ours(link, adapters[module], where)
  if unknown := sorted(adapters.keys() - linear_modules(rules, shapes)):
    raise user_error(where, None, f'{len(unknown)} adapters of modules that the model lacks: '
                     f'{shorten(unknown)}; use an adapter of this model')
  flat = trees.flatten(shapes)
  return trees.unflatten({
      _beside(path, name): leaf for path, layers in found.items()
      for name, leaf in _stacked(layers, tuple(flat[path].shape)).items()})


def linear_modules(rules: engine.Rules, shapes: trees.Tree) -> set[str]:
  """The modules of theirs that hold a kernel of ours."""
  return {link.theirs.removesuffix('.weight') for link in engine.places(rules, shapes)
          if link.path.endswith('/kernel') and len(link.shape) == 2}


def _beside(kernel: str, name: str) -> str:
  return f'{kernel.removesuffix("kernel")}lora/{name}'


def _channels(link: engine.Link) -> tuple[np.ndarray, np.ndarray]:
  """Which input and output channel of ours each of theirs is: i[in], i[out]."""
  if link.part is not None or len(link.shape) != 2:
    raise user_error(link.theirs, link.shape, 'is no plain matrix and cannot have an adapter; '
                     'leave it out of the LoRA modules')
  return _channel_orders(link.rule, link.stages[0], link.shape)


@functools.lru_cache(maxsize=256)
def _channel_orders(rule: engine.Rule, ours: Shape, theirs: Shape
                    ) -> tuple[np.ndarray, np.ndarray]:
  numbers = np.arange(math.prod(ours), dtype=np.int32).reshape(ours)
  for transform in reversed(rule.transforms):
    numbers = transform.write(numbers)
  inputs, outputs = numbers[0] // theirs[0], numbers[:, 0] % theirs[0]
  assert np.array_equal(numbers, inputs * theirs[0] + outputs[:, None]), rule
  return inputs, outputs


def _joined(size: int, parts: Sequence[tuple[slice | None, Adapter]]) -> Adapter:
  """One adapter of a weight with ``size`` rows that does what its parts do to theirs."""
  if parts[0][0] is None:
    return parts[0][1]
  rank = sum(part.rank for _, part in parts)
  scales = [part.alpha / part.rank for _, part in parts]
  common = scales[0] if len(set(scales)) == 1 else 1.0
  up, start = np.zeros((size, rank), parts[0][1].up.dtype), 0
  for (rows, part), scale in zip(parts, scales, strict=True):
    up[rows, start:start + part.rank] = part.up * np.asarray(scale / common, up.dtype)
    start += part.rank
  return Adapter(np.concatenate([part.down for _, part in parts]), up, common * rank)


def _ours(link: engine.Link, adapter: Adapter, where: str) -> Adapter:
  """Their adapter with our channels, (r, in) and (out, r) still."""
  inputs, outputs = _channels(link)
  up = adapter.up if link.rows is None else adapter.up[link.rows]
  if not adapter.rank:
    raise user_error(where, None, f'the adapter of {link.theirs} has rank 0; the file is broken, '
                     'or the adapter was removed from it in part')
  if adapter.down.shape[1:] != inputs.shape or up.shape != (len(outputs), adapter.rank):
    raise user_error(where, None, f'the adapter of {link.theirs} has the shapes '
                     f'{adapter.down.shape} and {adapter.up.shape}, which do not fit '
                     f'({len(outputs)}, {len(inputs)})')
  down_ours, up_ours = np.empty_like(adapter.down), np.empty_like(up)
  down_ours[:, inputs], up_ours[outputs] = adapter.down, up
  return Adapter(down_ours, up_ours, adapter.alpha)


def _stacked(layers: Mapping[int | None, Adapter], kernel: Shape) -> dict[str, np.ndarray]:
  """``a``, ``b`` and ``alpha`` of one kernel from the adapters of its layers."""
  one = kernel if None in layers else kernel[1:]
  rank = max(adapter.rank for adapter in layers.values())
  count = 1 if None in layers else kernel[0]
  depth, size = next(iter(layers.values())).down.shape[1], math.prod(one)
  a = np.zeros((count, depth, rank), np.float32)
  b = np.zeros((count, rank, size // depth), np.float32)
  alpha = np.full(count, rank, np.float32)
  for layer, adapter in layers.items():
    index = layer or 0
    a[index, :, :adapter.rank], b[index, :adapter.rank] = adapter.down.T, adapter.up.T
    alpha[index] = adapter.alpha * rank / adapter.rank
  split = next(dim for dim in range(1, len(one) + 1) if math.prod(one[:dim]) == depth)
  stack = () if None in layers else (count,)
  return dict(a=a.reshape(*stack, *one[:split], rank), b=b.reshape(*stack, rank, *one[split:]),
              alpha=alpha.reshape(stack))
