"""ZeRO-2 and ZeRO-3: parameters are gathered once per step, or layer by layer.

Both shard masters, moments, moving average and gradients over ``fsdp``. Stage 3 gathers each
layer's parameters where they are used, in the forward and the backward pass, and frees them again.
Stage 2 gathers all parameters at the start of the step and keeps them. That takes more memory, but
one gather serves all micro-batches instead of two gathers for each.
"""

import jax
from jax.sharding import PartitionSpec

from jaxgen.core import trees
from jaxgen.core.types import Params
from jaxgen.sharding import partition
from jaxgen.sharding.rules import Rules

SHARDED_BY = 'fsdp'


def gathered(params: Params, axes: trees.Tree, table: Rules) -> Params:
  """Gathers the parameters over ``fsdp``; other mesh axes still shard them.

  Args:
    params: traced parameters, under the run's mesh.
    axes: tree of tuples of logical axis names; may hold further parameters.
    table: the run's table of logical axes.
  """
  return _placed(params, axes, table, keep=lambda axis: axis != SHARDED_BY)


def scattered(gradients: Params, axes: trees.Tree, table: Rules) -> Params:
  """Reduce-scatters gradients over ``fsdp``: each device keeps the shard that it updates."""
  return _placed(gradients, axes, table, keep=lambda axis: True)


def _placed(tree: Params, axes: trees.Tree, table: Rules, keep) -> Params:
  mesh, names = jax.sharding.get_abstract_mesh(), trees.flatten(axes)

  def place(path, leaf):
    entries = [
        tuple(axis for axis in partition.mesh_axes(entry) if keep(axis))
        for entry in partition.spec(names[path], leaf.shape, mesh, path, table)]
    return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*entries))

  return trees.map_named(place, tree)
