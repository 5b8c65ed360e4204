"""Muon: orthogonalised momentum for hidden matrices, with whole matrices distributed over devices.

Newton-Schulz iterations multiply a matrix with itself and need all of it. Devices that hold shards
of a stack of matrices exchange them, so that each device gets some matrices whole, iterates on
these, and sends the shards back. This takes two all-to-alls over the mesh axes that shard a matrix
and one all-gather over the axes that replicate it, for all matrices of the same shape together.
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
# RMS of an update before the learning rate, matched to AdamW's (arXiv 2502.16982), so that one
# learning rate works for both optimizers; L091 gives a single one.
RMS = 0.2


@dataclasses.dataclass(frozen=True)
class Hidden:
  """How the dims of a parameter form hidden matrices.

  Attributes:
    names: logical axes of the parameter.
    inputs: dims that form the rows of a matrix.
    outputs: dims that form its columns. The remaining dims index the matrices.
  """

  names: tuple[str, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]


def hidden_matrices(names: tuple[str, ...]) -> Hidden | None:
  """Finds the hidden matrices of a kernel with these logical axes.

  ``('layers', 'embed', 'heads', 'head_dim')`` is one matrix per layer, with dim 1 as rows and dims
  (2, 3) as columns.

  Returns:
    None if the parameter is not a hidden matrix; AdamW then updates it (A19).
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
  """Nesterov momentum, orthogonalised per matrix and scaled to the RMS of AdamW's updates (A19).

  Args:
    matrices: tree of ``Hidden``, with ``optax.MaskedNode`` in place of other parameters.
    table: the run's table of logical axes, which gives the sharding of each parameter.
    moments_dtype: storage dtype of the momentum.
    dtype: dtype of the iterations and of the communication.
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
  """A parameter as matrices ``[K, m, n]``; stacks with equal shape and split are batched together.

  Attributes:
    order: permutation of the parameter's dims: those that index matrices, then m's, then n's.
    counted: number of dims that index matrices.
    inner: number of dims that form m.
    shape: (m, n) of whole matrices; m is the shorter side, which makes the products cheaper.
    split: mesh axes that shard m, that shard n, and that replicate the parameter.
  """

  order: tuple[int, ...] = dataclasses.field(compare=False)
  counted: int = dataclasses.field(compare=False)
  inner: int = dataclasses.field(compare=False)
  shape: tuple[int, int]
  split: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]

  def of(self, block: jax.Array) -> jax.Array:
    """Reshapes a device's block of the parameter to its shards of the matrices."""
    moved = block.transpose(self.order)
    sides = moved.shape[self.counted:]
    return moved.reshape(-1, math.prod(sides[:self.inner]), math.prod(sides[self.inner:]))

  def back(self, shares: jax.Array, block: jax.Array) -> jax.Array:
    """The inverse of ``of``: back to the shape and dtype of ``block``."""
    moved = shares.reshape([block.shape[dim] for dim in self.order])
    return moved.transpose(np.argsort(self.order)).astype(block.dtype)


def _stack(leaf, hidden, spec, mesh):
  def axes(dims):
    return tuple(axis for dim in dims for axis in partition.mesh_axes(spec[dim]))

  def size(dims):
    return math.prod(leaf.shape[dim] for dim in dims)

  # For square matrices the sharded side comes first, so that kernels to and from the model
  # dimension have the same layout and can be batched.
  first, second = sorted((hidden.inputs, hidden.outputs),
                         key=lambda dims: (size(dims), not axes(dims)))
  others = tuple(dim for dim in range(leaf.ndim) if dim not in first + second)
  copies = tuple(axis for axis in mesh.axis_names
                 if mesh.shape[axis] > 1 and axis not in axes(range(leaf.ndim)))
  return _Stack((*others, *first, *second), len(others), len(first), (size(first), size(second)),
                (axes(first), axes(second), copies))


def _orthogonal(blocks, *, stacks, dtype):
  """Per device: orthogonalises its blocks of all parameters."""
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
  """Orthogonalises shards ``[K, m, n]`` by giving each device a part of the matrices whole."""
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
  """Newton-Schulz iterations from optax, whose Muon without momentum does nothing else. An
  orthogonal ``m x n`` matrix has entries of RMS ``1 / sqrt(max(m, n))``."""
  rule = contrib.scale_by_muon(
      ns_steps=ITERATIONS, beta=0.0, nesterov=False,
      weight_dimension_numbers=contrib.MuonDimensionNumbers(1, 2))
  orthogonal, _ = rule.update(matrices, rule.init(matrices))
  return orthogonal * (RMS * math.sqrt(max(matrices.shape[1:])))
