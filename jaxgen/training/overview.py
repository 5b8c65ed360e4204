"""Parameter overview: a table of the parameter groups at start, and ``parameters.txt``."""

import dataclasses
import itertools
import sys
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from clu import parameter_overview
from etils import epath

from jaxgen.core import trees
from jaxgen.core.files import write_text
from jaxgen.training.state import Blueprint

FILE = 'parameters.txt'


@dataclasses.dataclass(frozen=True)
class Group:
  """A row of the table; the last one is the sum of the others.

  Attributes:
    group: name of the parameter group.
    module: class name of its module.
    trained, frozen: number of trainable and of frozen parameters.
    dtypes: dtypes of the parameters as steps read them.
    device_bytes: bytes of its parameters on one device, without gradients, optimizer and EMA.
    optimizer_bytes: bytes of its moments and moving average on one device, or in host memory.
    source: where its values were loaded from.
  """

  group: str
  module: str
  trained: int
  frozen: int
  dtypes: str
  device_bytes: int
  optimizer_bytes: int
  source: str


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A row of ``parameters.txt``.

  Attributes:
    path: path of the parameter, starting with its group.
    shape: global shape.
    dtype: dtype as steps read it.
    axes: logical axis name of each dim.
    sharding: mesh axes that shard each dim; '-' for none.
    trains: True if trainable, False if frozen.
    optimizer_bytes: as of ``Group``.
  """

  path: str
  shape: str
  dtype: str
  axes: str
  sharding: str
  trains: bool
  optimizer_bytes: int


def report(workdir: epath.Path, blueprint: Blueprint, models: Mapping[str, nn.Module],
           axes: trees.Tree, sources: Mapping[str, str]) -> None:
  """Prints the table to stderr, and writes it with a row for each parameter into
  ``parameters.txt``; in process 0 only.

  Args:
    workdir: the run's workdir; must exist.
    blueprint: the run's blueprint.
    models: group -> module.
    axes: tree of tuples of logical axis names, ``{group: ...}``.
    sources: group -> where its values were loaded from, see ``load_groups``.
  """
  if jax.process_index() == 0:
    table = parameter_overview.make_table(groups(blueprint, models, sources))
    rows = parameter_overview.make_table(parameters(blueprint, axes))
    write_text(workdir / FILE, f'{table}\n\n{rows}\n')
    print(table, file=sys.stderr, flush=True)


def groups(blueprint: Blueprint, models: Mapping[str, nn.Module], sources: Mapping[str, str]
           ) -> list[Group]:
  """The rows of the table; for the arguments see ``report``."""
  rows, optimizer = [], _optimizer_bytes(blueprint)
  for group in blueprint.groups:
    trained, stored, frozen = (
        list(trees.flatten(tree.get(group, {})).values())
        for tree in (blueprint.state.params, blueprint.stored, blueprint.frozen))
    held = trained + frozen
    rows.append(Group(
        group, type(models[group]).__name__, _size(trained), _size(stored),
        ' '.join(sorted({leaf.dtype.name for leaf in held})),
        sum(map(_device_bytes, held)),
        sum(size for path, size in optimizer.items() if path.partition('/')[0] == group),
        sources[group] if held else 'no parameters'))
  sums = {name: sum(getattr(row, name) for row in rows)
          for name in ('trained', 'frozen', 'device_bytes', 'optimizer_bytes')}
  return [*rows, Group('total', '', dtypes='', source='', **sums)]


def parameters(blueprint: Blueprint, axes: trees.Tree) -> list[Parameter]:
  """The rows of ``parameters.txt``, sorted by path, without the scales of quantised kernels."""
  axes, optimizer = trees.flatten(axes), _optimizer_bytes(blueprint)
  held = trees.flatten(blueprint.state.params) | trees.flatten(blueprint.frozen)
  return [Parameter(path, _joined(leaf.shape), leaf.dtype.name, _joined(axes[path]),
                    _joined(map(_cut, _spec(leaf))), blueprint.trains[path],
                    optimizer.get(path, 0))
          for path, leaf in sorted(held.items()) if path in axes]


def _size(leaves: list[Any]) -> int:
  return sum(leaf.size for leaf in leaves)


def _optimizer_bytes(blueprint: Blueprint) -> dict[str, int]:
  """Path of each trainable parameter -> bytes of its moments and moving average on one device."""
  found = dict.fromkeys(trees.flatten(blueprint.state.params), 0)
  state = blueprint.state.opt_state, blueprint.state.ema
  for keys, leaf in jax.tree.leaves_with_path(state):
    # Trees like the parameters are the innermost part of a state; step counts belong to none.
    names = itertools.takewhile(lambda key: isinstance(key, jax.tree_util.DictKey), reversed(keys))
    path = '/'.join(reversed([key.key for key in names]))
    if path:
      found[path] += _device_bytes(leaf)
  return found


def _device_bytes(leaf: jax.ShapeDtypeStruct) -> int:
  shard = jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
  return shard.size * shard.dtype.itemsize


def _spec(leaf: jax.ShapeDtypeStruct) -> tuple[Any, ...]:
  spec = tuple(leaf.sharding.spec)
  return spec + (None,) * (leaf.ndim - len(spec))


def _cut(axes: str | tuple[str, ...] | None) -> str:
  """The mesh axes that shard one dim, as text."""
  return '+'.join((axes,) if isinstance(axes, str) else axes or ('-',))


def _joined(words: Any) -> str:
  return ' '.join(map(str, words))
