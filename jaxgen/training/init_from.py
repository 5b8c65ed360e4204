"""Which groups of parameters start from another run or from imported weights."""

import re
import sys
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxgen.checkpoints import adopt
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.checkpoints.weights import is_weights
from jaxgen.checkpoints.weights import open_weights
from jaxgen.training.adapters import merge_on_load
from jaxgen.training.state import Blueprint


def load_groups(config: ConfigDict, blueprint: Blueprint,
                read_external: Callable[[str], Params] | None = None
                ) -> tuple[dict[str, Any], dict[str, str]]:
  """Opens the groups that ``config.init_from`` names and prints what ``changes`` does to them.

  Args:
    config: of the run.
    blueprint: what the run holds.
    read_external: opens a model of another library as one group; what is no folder of jaxgen is
      handed to it.

  Returns:
    ``(loaded, sources)``. ``loaded``: group -> tree of ``Stored``, or of what ``read_external``
    gives; groups that start at random are absent, and so is what is reinitialised in the others.
    What ``changes`` extends is smaller than its parameter; adapters that it merges are added as
    their kernels are read. ``sources``: where each group comes from, in words.

  Raises:
    UserError: no such folder, or weights with missing, unknown or misshapen parameters that
      ``config.init_from.changes`` does not name, or a rule there that matches nothing.
  """
  shapes = trees.merge(blueprint.state.params, blueprint.stored)
  source, loaded, found = config.init_from, {}, []
  sources = dict.fromkeys(blueprint.groups, 'random')
  for group in blueprint.groups:
    if group not in source:
      raise user_error('config.init_from', group, 'this system has such a group of parameters; '
                       "add the field, '' for a random start")
    if source[group] and group in shapes:
      loaded[group], sources[group], paths = load_group(config, group, shapes, read_external)
      found += paths
  _check_used(source.changes, found, list(trees.flatten(shapes)),
              sorted({source[group] for group in loaded}))
  return loaded, sources


def load_group(config: ConfigDict, group: str, shapes: Params,
               read_external: Callable[[str], Params] | None = None
               ) -> tuple[Any, str, list[str]]:
  """Opens one group that ``config.init_from`` names.

  Args:
    config, read_external: see ``load_groups``.
    group: its name.
    shapes: tree with ``.shape`` at the leaves, of all groups.

  Returns:
    ``(tree of Stored, where it comes from in words, paths that were found there)``.
  """
  source, folder = config.init_from, config.init_from[group]
  if read_external and not is_weights(folder):
    tree, words = {group: read_external(folder)}, f'from {folder}'
  else:
    tree, words = open_weights(folder, [group], source.weights), f'from {folder} ({source.weights})'
  found = list(trees.flatten(tree))
  tree, merged = merge_on_load(tree, source.changes, folder)
  tree, report = adopt.adopt(tree, {group: shapes[group]}, source.changes, folder)
  text = adopt.describe(report | {'merged': merged})
  if text and jax.process_index() == 0:
    print(f'{group}: {text}', file=sys.stderr, flush=True)
  return tree.get(group, {}), words, found


def _check_used(changes: adopt.Changes, found: Sequence[str], wanted: Sequence[str],
                folders: Sequence[str]) -> None:
  """Raises a ``UserError`` for a rule that matches nothing; 'merge' is for what was found."""
  merges = [change for change in changes if change[1] == 'merge']
  for pattern, _ in merges:
    if not any(re.fullmatch(pattern, path) for path in found):
      raise user_error('config.init_from.changes', pattern, 'there is no such adapter to merge in '
                       f'{", ".join(folders) or "any folder, as config.init_from names none"}; '
                       'start from the run that trained it, or remove the rule')
  adopt.check_used([*wanted, *found], [change for change in changes if change not in merges])
