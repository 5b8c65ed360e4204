"""Shardings of arrays: parameters by logical axes, batches by rows, host rows to global arrays."""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.sharding import rules


def parameter_shardings(axes: trees.Tree, shapes: trees.Tree, mesh: Mesh,
                        table: rules.Rules = rules.RULES) -> dict[str, Any]:
  """Computes the sharding of every parameter.

  Args:
    axes: tree of tuples of logical axis names, one per dimension; may hold further parameters.
    shapes: tree of arrays or ``ShapeDtypeStruct``.
    mesh: the run's mesh.
    table: the run's table of logical axes.

  Returns:
    A tree like ``shapes`` of ``NamedSharding``.

  Raises:
    UserError: a logical axis without a rule, or a dimension that its mesh axes do not divide
      and whose rule forbids replication.
  """
  return trees.map_named(
      lambda path, leaf, names: NamedSharding(mesh, spec(names, leaf.shape, mesh, path, table)),
      shapes, axes)


def spec(names: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh, path: str,
         table: rules.Rules = rules.RULES) -> PartitionSpec:
  """The ``PartitionSpec`` of one array; ``path`` names it in errors."""
  assert len(names) == len(shape), f'{path}: axes {names} for shape {shape}'
  entries: list[tuple[str, ...] | None] = [None] * len(shape)
  taken: set[str] = set()
  for index in sorted(range(len(names)), key=lambda i: _precedence(names[i], table)):
    rule = table[names[index]]
    axes = tuple(axis for axis in rule.axes if mesh.shape[axis] > 1)
    ways = int(np.prod([mesh.shape[axis] for axis in axes]))
    if not axes or taken & set(axes):
      continue
    if shape[index] % ways == 0:
      entries[index] = axes
      taken.update(axes)
    elif not rule.may_replicate:
      raise user_error(f'config.mesh.{axes[0]}', ways, f'does not divide the {names[index]} '
                       f'dimension ({shape[index]}) of {path}; use a divisor of {shape[index]}, or '
                       f'keep it whole: mesh.rules = {((names[index], rule.axes, True),)}')
  return PartitionSpec(*entries)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that is replicated on every device."""
  return NamedSharding(mesh, PartitionSpec())


def row_ways(mesh: Mesh) -> int:
  """How many parts the rows of a batch are split into."""
  return int(np.prod([mesh.shape[axis] for axis in rules.rule('rows').axes]))


def row_sharding(mesh: Mesh, rows: int, accumulate: int = 1) -> NamedSharding:
  """The sharding of a batch: rows split over the mesh axes of the rule ``rows``.

  Raises:
    UserError: those axes do not divide the rows of a micro-batch.
  """
  axes, ways = rules.rule('rows').axes, row_ways(mesh)
  if rows % (ways * accumulate):
    raise user_error('config.train.rows', rows, f'must be a multiple of train.accumulate x '
                     f'mesh.{" x mesh.".join(axes)} = {accumulate} x {ways}')
  return NamedSharding(mesh, PartitionSpec(axes))


def process_rows(mesh: Mesh, rows: int, process: int | None = None) -> tuple[int, int]:
  """The global rows ``[lo, hi)`` that a process loads. Processes whose devices hold parts of the
  same rows (along the tensor or context axis) load the same rows.

  Args:
    mesh: the run's mesh.
    rows: R, rows of the global batch.
    process: process index; this process by default.
  """
  process = jax.process_index() if process is None else process
  owners: dict[int, set[int]] = {}
  for device, (index, *_) in row_sharding(mesh, rows).devices_indices_map((rows,)).items():
    owners.setdefault(device.process_index, set()).add(index.start or 0)
  block = rows // len(set().union(*owners.values()))
  # A TPU mesh follows the torus, so the blocks of a process need not be adjacent. Processes are
  # ordered by their first block.
  turns = sorted({tuple(sorted(starts)) for starts in owners.values()})
  if sum(map(len, turns)) * block != rows:
    raise user_error('config.mesh', dict(mesh.shape),
                     'some processes share only a part of their rows; make the tensor and '
                     'context axes a divisor or a multiple of the devices of a process')
  mine = turns.index(tuple(sorted(owners[process])))
  lo = sum(map(len, turns[:mine])) * block
  return lo, lo + len(turns[mine]) * block


def to_global(tree: Any, sharding: NamedSharding, rows: int) -> Any:
  """Assembles the rows of every process: numpy leaves ``[R_local, ...]`` become global arrays
  ``[R, ...]``; no data moves between processes."""
  return jax.tree.map(
      lambda leaf: jax.make_array_from_process_local_data(
          sharding, leaf, (rows, *leaf.shape[1:])), tree)


def split(tree: Any, sharding: NamedSharding) -> Any:
  """Numpy leaves that every process has whole, as global arrays; no data moves between them."""
  return jax.tree.map(lambda leaf: jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: leaf[index]), tree)


def gathered(array: jax.Array) -> np.ndarray:
  """The values of a global array, on every process."""
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@contextlib.contextmanager
def scope(mesh: Mesh, table: rules.Rules = rules.RULES) -> Iterator[None]:
  """Context in which modules may constrain activations by logical axis names."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules.flax_rules(table)):
    yield


def constrained(x: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """Constrains an activation's sharding by logical axis names; the identity outside ``scope``.

  A dimension that its mesh axes do not divide stays whole. XLA would pad it, and the values in the
  padding would be added to the gradient of a vocabulary that is sharded too.
  """
  if jax.sharding.get_abstract_mesh().empty or not nn.get_logical_axis_rules():
    return x
  entries = map(even_axes, nn.logical_to_mesh_axes(names), x.shape)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def part(name: str, size: int) -> int:
  """How much of a dimension of a logical axis a device has; all of it outside ``scope``."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or not nn.get_logical_axis_rules():
    return size
  axes = even_axes(nn.logical_to_mesh_axes((name,))[0], size)
  return size // int(np.prod([mesh.shape[axis] for axis in axes]))


def even_axes(entry: str | tuple[str, ...] | None, size: int) -> tuple[str, ...]:
  """The mesh axes in a ``PartitionSpec`` entry that split a dimension of ``size`` evenly."""
  mesh = jax.sharding.get_abstract_mesh()
  taken = []
  for axis in mesh_axes(entry):
    if axis not in mesh.manual_axes and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0:
      taken.append(axis)
      size //= mesh.shape[axis]
  return tuple(taken)


def mesh_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes in a ``PartitionSpec`` entry as a tuple; a single axis may be a plain string."""
  return (entry,) if isinstance(entry, str) else entry or ()


def _precedence(name: str, table: rules.Rules) -> int:
  rules.rule(name, table)
  return list(table).index(name)
