"""ZeRO-2 and ZeRO-3: whether parameters are gathered once for a step, or layer by layer.

Masters, moments, moving average and gradients are sharded over ``fsdp`` in both. With stage 3
each layer's parameters are gathered where they are used, forward and backward, and dropped again.
With stage 2 all of them are gathered at the start of the step and stay: more memory, and one
gather for all micro-batches in place of two for each.
"""

import jax
from jax.sharding import PartitionSpec

from jaxgen.core import trees
from jaxgen.core.types import Params
from jaxgen.sharding import partition
from jaxgen.sharding.rules import Rules

SHARDED_BY = 'fsdp'


def gathered(params: Params, axes: trees.Tree, table: Rules) -> Params:
  """The parameters whole on every device of an ``fsdp`` group; other mesh axes still split them.

  Args:
    params: traced, under the mesh of the run.
    axes: tree of tuples of logical names that holds at least these parameters.
    table: of the run.
  """
  return _placed(params, axes, table, keep=lambda axis: axis != SHARDED_BY)


def scattered(gradients: Params, axes: trees.Tree, table: Rules) -> Params:
  """Gradients by gathered parameters, each device left with the share that it updates."""
  return _placed(gradients, axes, table, keep=lambda axis: True)


def _placed(tree: Params, axes: trees.Tree, table: Rules, keep) -> Params:
  mesh, names = jax.sharding.get_abstract_mesh(), trees.flatten(axes)

  def place(path, leaf):
    entries = [
        tuple(axis for axis in partition.mesh_axes(entry) if keep(axis))
        for entry in partition.spec(names[path], leaf.shape, mesh, path, table)]
    return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*entries))

  return trees.map_named(place, tree)
