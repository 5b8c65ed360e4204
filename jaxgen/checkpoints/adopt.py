"""Fits weights to a model of other shapes: which are loaded, extended, reinitialised or dropped.

Nothing is left out silently. A parameter that does not fit needs a rule that says what to do with
it; the rest is one error that lists them all.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.mismatch import mismatch
from jaxgen.core.mismatch import shorten

# (regex over group/path, way), of ``config.init_from.changes``. reinit: a missing or misshapen
# parameter starts as in a new model. extend: a smaller one fills the first entries of each
# dimension, and the others start as in a new model (token rows, queries). drop: one that the model
# does not have is left out. merge: an adapter that was found is added to its kernel before the rest
# is fitted (``training.adapters``); one that the model has starts as in a new model.
Changes = Sequence[tuple[str, str]]


def adopt(found: trees.Tree, wanted: trees.Tree, changes: Changes, where: str
          ) -> tuple[dict[str, Any], dict[str, list[str]]]:
  """Takes from the weights at hand what the model can hold.

  Args:
    found: tree of arrays, ``{group: ...}``.
    wanted: the same groups, leaves with ``.shape``.
    changes: what may differ; the first regex that matches a path counts.
    where: the weights, named in errors.

  Returns:
    ``(tree, report)``. The tree lacks what is reinitialised; an array that is extended is smaller
    than the parameter. The report lists the paths of ``loaded``, ``extended``, ``reinitialised``
    and ``dropped``.

  Raises:
    UserError: a parameter that does not fit and is not named in ``changes``.
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
  """What the first rule that matches a path says to do with it; '' where none does."""
  return next((found for pattern, found in changes if re.fullmatch(pattern, path)), '')


def check_used(paths: Sequence[str], changes: Changes) -> None:
  """Raises a ``UserError`` for a regex that matches no path: it is most likely misspelt."""
  for pattern, _ in changes:
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise user_error('config.init_from.changes', pattern, 'this regex matches no parameter')


def describe(report: Mapping[str, Sequence[str]]) -> str:
  """The report in words; empty where everything was loaded."""
  rest = [f'{len(paths)} {kind}: {shorten(paths)}' for kind, paths in report.items()
          if paths and kind != 'loaded']
  return '; '.join([f'{len(report["loaded"])} loaded', *rest]) if rest else ''


def _kind(found: Any, wanted: Any, way: str) -> str:
  """The report's word for a parameter; '' where it is an error."""
  if wanted is None:
    return 'dropped' if way == 'drop' else ''
  if found is None:
    return 'reinitialised' if way in ('reinit', 'merge') else ''
  if tuple(found.shape) == tuple(wanted.shape):
    return 'loaded'
  smaller = len(found.shape) == len(wanted.shape) and all(
      ours <= goal for ours, goal in zip(found.shape, wanted.shape))
  return {'extend': 'extended' if smaller else '', 'reinit': 'reinitialised'}.get(way, '')
