"""Named paths over parameter trees: flatten, match by regex, partition and merge."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxgen.core.errors import user_error

Tree = Mapping[str, Any]


def flatten(tree: Tree, prefix: str = '') -> dict[str, Any]:
  """Flattens nested dicts into one dict keyed by ``a/b/c`` paths, sorted; only dicts are nodes."""
  flat = {}
  for name in sorted(tree):
    path = f'{prefix}/{name}' if prefix else name
    value = tree[name]
    if isinstance(value, Mapping):
      flat.update(flatten(value, path))
    else:
      flat[path] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of ``flatten``."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *parents, leaf = path.split('/')
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[leaf] = value
  return tree


def map_named(function: Callable[..., Any], tree: Tree, *rest: Tree) -> dict[str, Any]:
  """Maps ``function(path, leaf, *other_leaves)`` over trees with the same structure."""
  others = [flatten(other) for other in rest]
  return unflatten({
      path: function(path, leaf, *(other[path] for other in others))
      for path, leaf in flatten(tree).items()
  })


def match_rules(paths: Sequence[str], rules: Sequence[tuple[str, Any]], field: str
                ) -> dict[str, Any]:
  """Gives each path the value of the first rule whose regex matches the full path.

  Args:
    paths: parameter paths.
    rules: ``(regex, value)`` in order of precedence.
    field: the config field that holds the rules, named in errors.

  Returns:
    ``{path: value}``.

  Raises:
    UserError: a path that no rule matches, or a rule that matches no path.
  """
  values, used = {}, set()
  for path in paths:
    for index, (pattern, value) in enumerate(rules):
      if re.fullmatch(pattern, path):
        values[path] = value
        used.add(index)
        break
    else:
      raise user_error(field, tuple(pattern for pattern, _ in rules),
                       f'no rule matches parameter {path!r}; add one')
  for index, (pattern, _) in enumerate(rules):
    if index not in used and not any(re.fullmatch(pattern, path) for path in paths):
      raise user_error(field, pattern, f'this rule matches no parameter; known groups: '
                       f'{sorted({path.split("/")[0] for path in paths})}')
  return values


def partition(tree: Tree, keep: Mapping[str, bool]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a tree by path into ``(leaves where keep is True, the other leaves)``."""
  flat = flatten(tree)
  chosen = {path: leaf for path, leaf in flat.items() if keep[path]}
  others = {path: leaf for path, leaf in flat.items() if not keep[path]}
  return unflatten(chosen), unflatten(others)


def merge(*trees: Tree) -> dict[str, Any]:
  """Merges disjoint trees, the inverse of ``partition``; no path may occur twice."""
  merged: dict[str, Any] = {}
  for tree in trees:
    flat = flatten(tree)
    assert not merged.keys() & flat.keys(), sorted(merged.keys() & flat.keys())
    merged.update(flat)
  return unflatten(merged)
