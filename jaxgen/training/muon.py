"""Muon: the momentum of hidden matrices, orthogonalised; devices take whole matrices in turn.

Newton-Schulz iterations multiply a matrix with itself, which needs all of it. Devices that hold
shares of a stack of matrices exchange them, so that each has some whole, works on these alone and
sends the shares back: two all-to-alls over the axes that split a matrix, and one all-gather over
those along which devices hold copies, for all matrices of one shape together.
"""

import collections
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec
from optax import contrib

from jaxgen.models.layers.linear import HIDDEN
from jaxgen.sharding import partition
from jaxgen.sharding.rules import Rules

MOMENTUM = 0.95
ITERATIONS = 5
# Root mean square of an update before the learning rate, as that of AdamW's updates is
# (arXiv 2502.16982): one learning rate then serves both halves, as L091 has a single one.
RMS = 0.2


@dataclasses.dataclass(frozen=True)
class Hidden:
  """How a parameter holds its hidden matrices.

  Attributes:
    names: logical axes of the parameter.
    inputs: its dims that make the rows of a matrix.
    outputs: those that make the columns; there is one matrix for each index of the others.
  """

  names: tuple[str, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]


def hidden_matrices(names: tuple[str, ...]) -> Hidden | None:
  """The hidden matrices of a kernel with these logical axes.

  ``('layers', 'embed', 'heads', 'head_dim')`` is one matrix per layer from dim 1 to dims (2, 3).

  Returns:
    None where the parameter is not a hidden matrix, and AdamW trains it (A19).
  """
  sides: list[list[int]] = []
  for index, name in enumerate(names):
    if name == 'layers':
      continue
    if name not in HIDDEN:
      return None
    if name == 'head_dim' and sides and names[index - 1] in ('heads', 'kv_heads'):
      sides[-1].append(index)
    else:
      sides.append([index])
  return Hidden(names, *map(tuple, sides)) if len(sides) == 2 else None


def scale_by_muon(matrices: Any, table: Rules, moments_dtype: str,
                  dtype: str) -> optax.GradientTransformation:
  """Nesterov momentum, every matrix of it made orthogonal and as large as updates of AdamW (A19).

  Args:
    matrices: tree of ``Hidden``, with ``optax.MaskedNode`` in place of other parameters.
    table: of the run; says how the mesh of the scope splits parameters.
    moments_dtype: of the momentum.
    dtype: of the iterations and of what is sent.
  """
  def orthogonal(updates, params=None):
    del params
    mesh, (leaves, tree) = jax.sharding.get_abstract_mesh(), jax.tree.flatten(updates)
    layouts = jax.tree.leaves(matrices)
    specs = [PartitionSpec(*leaf.ndim * [None]) if mesh.empty else
             partition.spec(hidden.names, leaf.shape, mesh, 'optimizer', table)
             for leaf, hidden in zip(leaves, layouts, strict=True)]
    stacks = [_stack(*given, mesh) for given in zip(leaves, layouts, specs)]
    on_each_device = functools.partial(_orthogonal, stacks=stacks, dtype=dtype)
    if not mesh.empty:
      on_each_device = jax.shard_map(
          on_each_device, in_specs=(specs,), out_specs=specs, check_vma=False)
    return tree.unflatten(on_each_device(leaves))

  return optax.chain(
      optax.trace(MOMENTUM, nesterov=True, accumulator_dtype=moments_dtype),
      optax.stateless(orthogonal))


@dataclasses.dataclass(frozen=True)
class _Stack:
  """A parameter as matrices ``[K, m, n]``; those of one shape and split are worked on together.

  Attributes:
    order: dims of the parameter: those that count matrices, then of m, then of n.
    counted: how many dims count matrices.
    inner: how many make m.
    shape: (m, n), of whole matrices; m is the shorter side, whose products are cheaper.
    split: mesh axes over which m and n are split, and those along which devices hold copies.
  """

  order: tuple[int, ...] = dataclasses.field(compare=False)
  counted: int = dataclasses.field(compare=False)
  inner: int = dataclasses.field(compare=False)
  shape: tuple[int, int]
  split: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]

  def of(self, block: jax.Array) -> jax.Array:
    """A device's block of the parameter as its shares of matrices."""
    moved = block.transpose(self.order)
    sides = moved.shape[self.counted:]
    return moved.reshape(-1, math.prod(sides[:self.inner]), math.prod(sides[self.inner:]))

  def back(self, shares: jax.Array, block: jax.Array) -> jax.Array:
    """The way back, to the shape and dtype of ``block``."""
    moved = shares.reshape([block.shape[dim] for dim in self.order])
    return moved.transpose(np.argsort(self.order)).astype(block.dtype)


def _stack(leaf, hidden, spec, mesh):
  def axes(dims):
    return tuple(axis for dim in dims for axis in partition.mesh_axes(spec[dim]))

  def size(dims):
    return math.prod(leaf.shape[dim] for dim in dims)

  # Of a square's sides the one that is split comes first, so that kernels to and from the model
  # dimension have the same shares.
  first, second = sorted((hidden.inputs, hidden.outputs),
                         key=lambda dims: (size(dims), not axes(dims)))
  others = tuple(dim for dim in range(leaf.ndim) if dim not in first + second)
  copies = tuple(axis for axis in mesh.axis_names
                 if mesh.shape[axis] > 1 and axis not in axes(range(leaf.ndim)))
  return _Stack((*others, *first, *second), len(others), len(first), (size(first), size(second)),
                (axes(first), axes(second), copies))


def _orthogonal(blocks, *, stacks, dtype):
  """On each device: its blocks of all parameters, made orthogonal."""
  groups, results = collections.defaultdict(list), list(blocks)
  for index, stack in enumerate(stacks):
    groups[stack].append(index)
  for stack, members in groups.items():
    shares = [stacks[index].of(blocks[index]).astype(dtype) for index in members]
    together = _by_turns(jnp.concatenate(shares), stack)
    ends = np.cumsum([len(share) for share in shares])
    for index, share in zip(members, jnp.split(together, ends[:-1])):
      results[index] = stacks[index].back(share, blocks[index])
  return results


def _by_turns(shares, stack):
  """``[K, m, n]``, shares of matrices, of which each device takes its part whole."""
  count, (rows, columns, copies) = len(shares), stack.split
  devices = math.prod(jax.lax.axis_size(axis) for axis in rows + columns + copies)
  shares = jnp.pad(shares, ((0, -count % devices), (0, 0), (0, 0)))
  if copies:
    part = len(shares) // jax.lax.axis_size(copies)
    shares = jax.lax.dynamic_slice_in_dim(shares, part * jax.lax.axis_index(copies), part)
  ways = [(axes, dim) for dim, axes in ((1, rows), (2, columns)) if axes]
  for axes, dim in ways:
    shares = jax.lax.all_to_all(shares, axes, 0, dim, tiled=True)
  shares = _newton_schulz(shares)
  for axes, dim in reversed(ways):
    shares = jax.lax.all_to_all(shares, axes, dim, 0, tiled=True)
  if copies:
    shares = jax.lax.all_gather(shares, copies, tiled=True)
  return shares[:count]


def _newton_schulz(matrices):
  """Iterations of optax, whose Muon without momentum has nothing else. An orthogonal ``m x n``
  matrix has entries of root mean square ``1 / sqrt(max(m, n))``."""
  rule = contrib.scale_by_muon(
      ns_steps=ITERATIONS, beta=0.0, nesterov=False,
      weight_dimension_numbers=contrib.MuonDimensionNumbers(1, 2))
  orthogonal, _ = rule.update(matrices, rule.init(matrices))
  return orthogonal * (RMS * math.sqrt(max(matrices.shape[1:])))
