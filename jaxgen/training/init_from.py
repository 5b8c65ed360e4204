"""Which groups of parameters start from another run or from imported weights."""

import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.weights import load_weights
from jaxgen.training.state import Blueprint


def load_groups(config: ConfigDict, blueprint: Blueprint) -> dict[str, Any]:
  """Reads the groups that ``config.init_from`` names and reports where each group comes from.

  Returns:
    Group -> tree of numpy arrays; groups that start at random are absent.

  Raises:
    UserError: no such folder, or weights with missing, unknown or misshapen parameters.
  """
  shapes = trees.merge(blueprint.state.params, blueprint.frozen)
  loaded = {}
  for group in blueprint.groups:
    if group not in config.init_from:
      raise user_error('config.init_from', group, 'this system has such a group of parameters; '
                       "add the field, '' for a random start")
    folder, note = config.init_from[group], 'random'
    if folder and group in shapes:
      tree, _ = load_weights(folder, [group], config.init_from.weights, shapes=shapes)
      loaded[group], note = tree[group], f'from {folder} ({config.init_from.weights})'
    if jax.process_index() == 0:
      print(_line(blueprint, group, note), file=sys.stderr, flush=True)
  return loaded


def _line(blueprint: Blueprint, group: str, note: str) -> str:
  def size(params):
    return sum(leaf.size for leaf in trees.flatten(params.get(group, {})).values())

  trained, frozen = size(blueprint.state.params), size(blueprint.frozen)
  return f'{group}: {trained / 1e6:.2f} M trained, {frozen / 1e6:.2f} M frozen, {note}'
