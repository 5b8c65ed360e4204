"""Which groups of parameters start from another run or from imported weights."""

import sys
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxgen.checkpoints import adopt
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.checkpoints.weights import is_weights
from jaxgen.checkpoints.weights import open_weights
from jaxgen.training.state import Blueprint


def load_groups(config: ConfigDict, blueprint: Blueprint,
                read_external: Callable[[str], Params] | None = None) -> dict[str, Any]:
  """Reads the groups that ``config.init_from`` names and reports where each group comes from.

  Args:
    config: of the run.
    blueprint: what the run holds.
    read_external: opens a model of another library as one group; what is no folder of jaxgen is
      handed to it.

  Returns:
    Group -> tree of ``Stored``, or of what ``read_external`` gives; groups that start at random
    are absent, and so is what is reinitialised in the others. What ``changes`` extends is smaller than
    its parameter.

  Raises:
    UserError: no such folder, or weights with missing, unknown or misshapen parameters that
      ``config.init_from.changes`` does not name.
  """
  shapes = trees.merge(blueprint.state.params, blueprint.stored)
  source, loaded, paths = config.init_from, {}, list(trees.flatten(shapes))
  for group in blueprint.groups:
    if group not in source:
      raise user_error('config.init_from', group, 'this system has such a group of parameters; '
                       "add the field, '' for a random start")
    folder, note = source[group], 'random'
    if folder and group in shapes:
      if read_external and not is_weights(folder):
        tree, note = {group: read_external(folder)}, f'from {folder}'
      else:
        tree, note = open_weights(folder, [group], source.weights), (
            f'from {folder} ({source.weights})')
      paths += trees.flatten(tree)
      tree, report = adopt.adopt(tree, {group: shapes[group]}, source.changes, folder)
      loaded[group] = tree.get(group, {})
      note += f'; {text}' if (text := adopt.describe(report)) else ''
    if jax.process_index() == 0:
      print(_line(blueprint, group, note), file=sys.stderr, flush=True)
  adopt.check_used(paths, source.changes)
  return loaded


def _line(blueprint: Blueprint, group: str, note: str) -> str:
  def size(params):
    return sum(leaf.size for leaf in trees.flatten(params.get(group, {})).values())

  trained, frozen = size(blueprint.state.params), size(blueprint.stored)
  return f'{group}: {trained / 1e6:.2f} M trained, {frozen / 1e6:.2f} M frozen, {note}'
