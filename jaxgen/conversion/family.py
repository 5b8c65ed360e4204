"""A family of external checkpoints: its name table, its config fields and how to recognise it.

Config fields are translated by a table as well: ``Field`` pairs a field of ours with one of
theirs, ``Fixed`` states what theirs must say because our model knows no alternative.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxgen.conversion.engine import Rules
from jaxgen.core.errors import user_error


def _same(value: Any, _: Mapping[str, Any]) -> Any:
  return value


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of our model section and the field of their config.json that holds it.

  Attributes:
    ours: dotted field of the section (``text.width``).
    theirs: dotted field of config.json; of several names the first is written and the first
      that is present is read.
    read: ``(their value, their whole config) -> our value``.
    write: ``(our value, our whole section) -> their value``.
    default: our value where theirs has no such field; None = the field is required.
  """

  ours: str
  theirs: str | tuple[str, ...]
  read: Callable[[Any, Mapping[str, Any]], Any] = _same
  write: Callable[[Any, Mapping[str, Any]], Any] = _same
  default: Any = None


@dataclasses.dataclass(frozen=True)
class Fixed:
  """A field of theirs with one value: written on export, checked on import where present.

  Attributes:
    theirs: dotted field of config.json.
    value: what export writes.
    also: other values that import accepts, because they make no difference to the model.
  """

  theirs: str
  value: Any
  also: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Family:
  """Everything that conversion knows of one external class.

  Attributes:
    name: family in ``jaxgen.models.registry``.
    marker: field of config.json and the value that identify the class.
    stem: file name of the weights without its ending.
    rules: the name table.
    fields: the config table.
  """

  name: str
  marker: tuple[str, str]
  stem: str
  rules: Rules
  fields: tuple[Field | Fixed, ...]

  def read_config(self, theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Their config.json as fields of our section (without ``family``)."""
    ours: dict[str, Any] = {}
    for field in self.fields:
      if isinstance(field, Fixed):
        _check_fixed(field, theirs, where)
        continue
      names = (field.theirs,) if isinstance(field.theirs, str) else field.theirs
      present = [name for name in names if _get(theirs, name) is not None]
      if present:
        value = field.read(_get(theirs, present[0]), theirs)
      elif field.default is not None:
        value = field.default
      else:
        raise user_error(where, None, f'lacks the field {names[0]!r}; is it a {self.marker[1]}?')
      _set(ours, field.ours, value)
    return ours

  def write_config(self, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our section as their config.json: ``read_config`` backwards."""
    theirs: dict[str, Any] = {}
    for field in self.fields:
      if isinstance(field, Fixed):
        _set(theirs, field.theirs, field.value)
        continue
      name = field.theirs if isinstance(field.theirs, str) else field.theirs[0]
      _set(theirs, name, field.write(_get(ours, field.ours), ours))
    return theirs | {self.marker[0]: self.marker[1]}


def _check_fixed(field: Fixed, theirs: Mapping[str, Any], where: str) -> None:
  value = _get(theirs, field.theirs)
  value = tuple(value) if isinstance(value, list) else value
  if value is not None and value not in (field.value, *field.also):
    raise user_error(f'{where}: {field.theirs}', value,
                     f'this model supports {field.value!r} only')


def _get(tree: Mapping[str, Any], path: str) -> Any:
  for name in path.split('.'):
    if not isinstance(tree, Mapping) or name not in tree:
      return None
    tree = tree[name]
  return tree


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
  *parents, leaf = path.split('.')
  for name in parents:
    tree = tree.setdefault(name, {})
  tree[leaf] = value
