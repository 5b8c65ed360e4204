"""Fits weights to a model with other shapes: parameters are loaded, extended, reinitialised or
dropped.

Nothing is dropped silently. A parameter that does not fit needs a rule that says what to do with
it; one error lists all parameters without a rule.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.mismatch import mismatch
from jaxgen.core.mismatch import shorten

# (regex over group/path, change) pairs of ``config.init_from.changes``:
#   reinit: a missing or misshapen parameter is initialised at random.
#   extend: a smaller array fills the first entries of each dimension and the rest is initialised at
#     random (token rows, queries).
#   drop: a parameter that the model does not have is ignored.
#   merge: an adapter in the weights is added to its kernel before everything else is fitted
#     (``training.adapters``); an adapter that the model has is initialised at random.
Changes = Sequence[tuple[str, str]]


def adopt(found: trees.Tree, wanted: trees.Tree, changes: Changes, where: str
          ) -> tuple[dict[str, Any], dict[str, list[str]]]:
  """Selects the weights that the model takes over.

  Args:
    found: tree of arrays, ``{group: ...}``.
    wanted: the model's parameters for the same groups, leaves with ``.shape``.
    changes: allowed differences; the first regex that matches a path applies.
    where: where the weights come from, named in errors.

  Returns:
    ``(tree, report)``. The tree has no reinitialised parameters, and extended arrays keep their
    smaller shape. The report lists the paths that were ``loaded``, ``extended``,
    ``reinitialised`` and ``dropped``.

  Raises:
    UserError: a parameter does not fit and no entry of ``changes`` covers it.
  """
  found, wanted = trees.flatten(found), trees.flatten(wanted)
  report: dict[str, list[str]] = {
      'loaded': [], 'extended': [], 'reinitialised': [], 'dropped': []}
  faults = []
  for path in sorted(found.keys() | wanted.keys()):
    kind = _kind(found.get(path), wanted.get(path), way(path, changes))
    if kind:
      report[kind].append(path)
    else:
      faults.append(path)
  if faults:
    text = mismatch(*({path: tuple(tree[path].shape) for path in faults if path in tree}
                      for tree in (found, wanted)))
    raise user_error(where, None, f'these weights do not fit config.model; {text}; use weights of '
                     'these families and sizes, or name in config.init_from.changes what may '
                     'be reinitialised, extended or dropped')
  kept = report['loaded'] + report['extended']
  return trees.unflatten({path: found[path] for path in kept}), report


def way(path: str, changes: Changes) -> str:
  """The change named by the first rule that matches a path; '' if no rule does."""
  return next((found for pattern, found in changes if re.fullmatch(pattern, path)), '')


def check_used(paths: Sequence[str], changes: Changes) -> None:
  """Raises a ``UserError`` for a regex that matches no path, which is probably a typo."""
  for pattern, _ in changes:
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise user_error('config.init_from.changes', pattern, 'this regex matches no parameter')


def describe(report: Mapping[str, Sequence[str]]) -> str:
  """The report as text; an empty string if everything was loaded."""
  rest = [f'{len(paths)} {kind}: {shorten(paths)}' for kind, paths in report.items()
          if paths and kind != 'loaded']
  return '; '.join([f'{len(report["loaded"])} loaded', *rest]) if rest else ''


def _kind(found: Any, wanted: Any, way: str) -> str:
  """The report entry that a parameter belongs to; '' if it does not fit."""
  if wanted is None:
    return 'dropped' if way == 'drop' else ''
  if found is None:
    return 'reinitialised' if way in ('reinit', 'merge') else ''
  if tuple(found.shape) == tuple(wanted.shape):
    return 'loaded'
  smaller = len(found.shape) == len(wanted.shape) and all(
      ours <= goal for ours, goal in zip(found.shape, wanted.shape))
  return {'extend': 'extended' if smaller else '', 'reinit': 'reinitialised'}.get(way, '')
