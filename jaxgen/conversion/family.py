"""A family of external checkpoints: its name table, its config fields and how to recognise it.

Config fields are translated by a table as well: ``Field`` pairs a field of ours with one of
theirs, ``Fixed`` states what theirs must say because our model knows no alternative.
"""

import dataclasses
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

from jaxgen.conversion import class_configs
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
    read: ``(their value, their whole config) -> our value``; None = written, never read.
    write: ``(our value, our whole section) -> their value``.
    default: our value where theirs has no such field; None = the field is required.
  """

  ours: str
  theirs: str | tuple[str, ...]
  read: Callable[[Any, Mapping[str, Any]], Any] | None = _same
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
class Supported:
  """A field of theirs that is checked on import and left to its default on export.

  Attributes:
    theirs: dotted field of config.json.
    holds: whether our model can do as the value says.
    supported: the values that it supports, for the error.
  """

  theirs: str
  holds: Callable[[Any], bool]
  supported: str


@dataclasses.dataclass(frozen=True)
class Implied:
  """A field of ours that the external class leaves no choice about.

  Attributes:
    ours: dotted field of the section.
    value: what import sets, and what export demands.
  """

  ours: str
  value: Any


@dataclasses.dataclass(frozen=True)
class Absent:
  """A switch of ours that is on where a tensor is absent, whatever their config says.

  Attributes:
    ours: dotted field of the section.
    tensor: name of the tensor.
    theirs: dotted fields of config.json that export sets to our value.
  """

  ours: str
  tensor: str
  theirs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Release:
  """A model that is published without a config.json.

  Attributes:
    name: by which it is known.
    fields: of our section, defaults left out.
    path: regex that its path contains where tensors alone do not tell; '' = any.
  """

  name: str
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  path: str = ''


@dataclasses.dataclass(frozen=True)
class Layout:
  """One naming of a family's parameters.

  Attributes:
    name: ``diffusers``, ``transformers``, ``jaxgen`` where no library has such a class,
      ``original`` for the names of the release, ...
    rules: the name table.
    extras: regex of tensors in such files that are no parameters; '' = none.
    published: releases that are recognised by their tensors, the first that fits.
    implied: fields of ours that the code behind these names leaves no choice about, in place of
      what config.json or the class implies.
  """

  name: str
  rules: Rules
  extras: str = ''
  published: tuple[Release, ...] = ()
  implied: tuple[Implied, ...] = ()

  def parameters(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors without the extras."""
    return {name: tensors[name] for name in tensors if not re.fullmatch(self.extras, name)}


@dataclasses.dataclass(frozen=True)
class Family:
  """Everything that conversion knows of one external class.

  Attributes:
    name: family in ``jaxgen.models.registry``.
    marker: field of config.json and the value that identify the class.
    stem: file name of the weights without its ending.
    rules: the name table.
    fields: the config table.
    others: further layouts of the same parameters.
    extras: as in ``Layout``, of the class itself.
    measure: the fields of our section for tensors of these shapes, in families without a class
      whose weights may come without a config.json; None from it = not of this family.
  """

  name: str
  marker: tuple[str, str]
  stem: str
  rules: Rules
  fields: tuple[Field | Fixed | Supported | Implied | Absent, ...]
  others: tuple[Layout, ...] = ()
  extras: str = ''
  measure: Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any] | None] | None = None

  @property
  def layouts(self) -> tuple[Layout, ...]:
    """All layouts, that of the class itself first."""
    own = 'jaxgen' if self.marker[0] == '_class_name' else 'transformers'
    name = 'diffusers' if self.stem == 'diffusion_pytorch_model' else own
    return (Layout(name, self.rules, self.extras), *self.others)

  def layout(self, name: str) -> Layout:
    """A layout by its name; '' is that of the class itself.

    Raises:
      UserError: the family has no such layout.
    """
    known = {layout.name: layout for layout in self.layouts}
    if name and name not in known:
      raise user_error('layout', name, f'{self.marker[1]} knows {sorted(known)} only')
    return known[name] if name else self.layouts[0]

  def read_config(self, theirs: Mapping[str, Any], tensors: Container[str], where: str,
                  layout: Layout | None = None) -> dict[str, Any]:
    """Their config.json as our section.

    Args:
      theirs: parsed config.json.
      tensors: names of the tensors beside it.
      where: file named in errors.
      layout: of these names; that of the class unless given.
    """
    if self.marker[0] == 'model_type':
      theirs = class_configs.completed(theirs, where)
    ours: dict[str, Any] = {'family': self.name}
    for field in self.fields:
      match field:
        case Fixed():
          check_fixed(field, theirs, where)
        case Supported():
          _check_supported(field, theirs, where)
        case Implied():
          _set(ours, field.ours, field.value)
        case Absent():
          _set(ours, field.ours, self._name_in(layout, field.tensor) not in tensors)
        case Field(read=read) if read is not None:
          _set(ours, field.ours, self._read(field, theirs, where))
    for field in layout.implied if layout else ():
      _set(ours, field.ours, field.value)
    return ours

  def write_config(self, ours: Mapping[str, Any], layout: Layout | None = None
                   ) -> dict[str, Any]:
    """Our section, complete, as their config.json: ``read_config`` backwards."""
    theirs: dict[str, Any] = {self.marker[0]: self.marker[1]}
    implied = {field.ours: field for field in (layout.implied if layout else ())}
    for field in self.fields:
      match field:
        case Fixed():
          _set(theirs, field.theirs, field.value)
        case Implied():
          self._check_implied(implied.get(field.ours, field), ours)
        case Absent():
          for name in field.theirs:
            _set(theirs, name, get(ours, field.ours))
        case Field():
          _set(theirs, _names(field)[0], field.write(get(ours, field.ours), ours))
    return theirs

  def _name_in(self, layout: Layout | None, tensor: str) -> str:
    """The name that another layout has for a tensor of the class."""
    if layout is None:
      return tensor
    ours = next(rule.ours for rule in self.rules if rule.names == (tensor,))
    return next(rule.names[0] for rule in layout.rules if rule.ours == ours)

  def _check_implied(self, field: Implied, ours: Mapping[str, Any]) -> None:
    if (value := get(ours, field.ours)) != field.value:
      raise user_error(f'config.model: {field.ours}', value, f'{self.marker[1]} knows '
                       f'{field.value!r} only; this model has no export in this layout')

  def _read(self, field: Field, theirs: Mapping[str, Any], where: str) -> Any:
    for name in _names(field):
      if (value := get(theirs, name)) is not None:
        return field.read(value, theirs)
    if field.default is None:
      raise user_error(where, None, f'lacks the field {_names(field)[0]!r}; '
                       f'is it the config of a {self.marker[1]}?')
    return field.default


def get(tree: Mapping[str, Any], path: str) -> Any:
  """The value at a dotted path, None where there is none."""
  for name in path.split('.'):
    if not isinstance(tree, Mapping) or name not in tree:
      return None
    tree = tree[name]
  return tree


def check_fixed(field: Fixed, theirs: Mapping[str, Any], where: str) -> None:
  """Raises a ``UserError`` where a config says something else than a field must."""
  value = get(theirs, field.theirs)
  value = tuple(value) if isinstance(value, list) else value
  if value is not None and value not in (field.value, *field.also):
    raise user_error(f'{where}: {field.theirs}', value,
                     f'this model supports {field.value!r} only')


def _names(field: Field) -> tuple[str, ...]:
  return (field.theirs,) if isinstance(field.theirs, str) else field.theirs


def _check_supported(field: Supported, theirs: Mapping[str, Any], where: str) -> None:
  value = get(theirs, field.theirs)
  if value is not None and not field.holds(value):
    raise user_error(f'{where}: {field.theirs}', value,
                     f'this model supports {field.supported} only')


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
  *parents, leaf = path.split('.')
  for name in parents:
    tree = tree.setdefault(name, {})
  tree[leaf] = value
