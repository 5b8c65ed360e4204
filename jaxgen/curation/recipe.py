"""A recipe: where records come from, and the stages that they pass, one after another.

A recipe is a Python file with ``get_recipe()``, as a config is one with ``get_config()``.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxgen.core import python_files
from jaxgen.core.errors import user_error
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record

Made = Record | Dropped | Iterable[Record | Dropped]
Reader = Callable[[str], Sequence[Record]]


@dataclasses.dataclass(frozen=True)
class Use:
  """Stands for a model in the parameters of a stage.

  Attributes:
    name: key of ``Recipe.models``; ``benchmarks`` is what ``--against`` names.
  """

  name: str


class Stage:
  """One step of every record by itself.

  Args:
    function: ``(record, **parameters)`` to a record, a ``record.drop(reason)``, or an iterable of
      them. It is pure: what it makes depends on its arguments alone.
    parameters: JSON values, or ``Use(name)`` where the function takes a model.
  """

  def __init__(self, function: Callable[..., Made], /, **parameters: Any):
    self.function, self.parameters = function, parameters

  @property
  def name(self) -> str:
    return self.function.__name__

  def bound(self, models: Mapping[str, Any]) -> Callable[[Any], Made]:
    """The function of one argument, with its parameters and models in it."""
    parameters = {name: models[value.name] if isinstance(value, Use) else value
                  for name, value in self.parameters.items()}
    return lambda argument: self.function(argument, **parameters)

  def described(self) -> dict[str, Any]:
    """Name and parameters as JSON values."""
    return dict(stage=f'{self.function.__module__}.{self.name}', parameters={
        name: f'model {value.name}' if isinstance(value, Use) else value
        for name, value in self.parameters.items()})


class Siblings(Stage):
  """One step over what one input has become so far, record by record.

  Args:
    function: ``(records, **parameters)`` to records and drops. ``records`` is an iterator, so that
      not all of them need to be held.
    parameters: as for ``Stage``.
  """


class Group(Stage):
  """One step of all records that share a key, wherever they were made.

  Args:
    function: ``(records, **parameters)`` to records and drops. ``records`` is a list in the order
      of the input.
    key: field that holds the key, a string; ids stand in ``id``.
    parameters: as for ``Stage``.
  """

  def __init__(self, function: Callable[..., Iterable[Record | Dropped]], /, key: str,
               **parameters: Any):
    super().__init__(function, **parameters)
    self.key = key

  def key_of(self, record: Record) -> str:
    """The key of one record."""
    return record.id if self.key == 'id' else str(record[self.key])

  def described(self) -> dict[str, Any]:
    """As ``Stage.described``, with the key."""
    return super().described() | dict(key=self.key)


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a recipe may ask of one model in all, through kills and restarts.

  Attributes:
    calls, tokens: at the most; 0 is no limit. Answers that are kept cost nothing.
    per_minute: calls, of all workers together; 0 is no limit.
  """

  calls: int = 0
  tokens: int = 0
  per_minute: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What ``get_recipe()`` returns.

  Attributes:
    read: ``(path)`` to a sequence of records, which it may read one by one; see ``readers``.
    stages: ``Stage``, ``Siblings``, ``Group``; what the last one makes has a field ``sample``.
    models: name -> what it is, see ``models.open_model``; '' where ``--model`` must say.
    limits: name of a model -> its limits.
    licence: of inputs that say nothing themselves.
    chunk: inputs of a shard, the unit of work: what a kill loses and one worker holds.
    buckets: parts that a ``Group`` divides the records into, each a shard; a worker holds the
      records of one key in memory.
    threads: inputs of a chunk at once, for stages that wait for models. What they become is then
      held in memory.
  """

  read: Reader
  stages: Sequence[Stage]
  models: Mapping[str, str] = dataclasses.field(default_factory=dict)
  limits: Mapping[str, Limits] = dataclasses.field(default_factory=dict)
  licence: str = ''
  chunk: int = 64
  buckets: int = 16
  threads: int = 1


def load_recipe(path: str) -> tuple[Recipe, str]:
  """Runs ``get_recipe()`` of a file.

  Returns:
    The recipe, and the hash of the file's text.

  Raises:
    UserError: no such file, an error in it, or it returns something else.
  """
  file = epath.Path(path)
  if not path or not file.exists() or file.is_dir():
    raise user_error('RECIPE', path, 'no such file; see configs/curation/ for those that ship')
  source = file.read_bytes()
  digest = hashlib.sha256(source).hexdigest()[:16]
  recipe = python_files.call(source, path, 'get_recipe', module=f'jaxgen_recipe_{digest}',
                             where='RECIPE', value=path)
  if not isinstance(recipe, Recipe):
    raise user_error('RECIPE', path, 'get_recipe() must return a Recipe, and not '
                     f'{type(recipe).__name__}')
  _check(recipe, path)
  return recipe, digest


def _check(recipe: Recipe, path: str) -> None:
  used = {value.name for stage in recipe.stages for value in stage.parameters.values()
          if isinstance(value, Use)}
  if not recipe.stages:
    raise user_error('RECIPE', path, 'has no stages')
  if unknown := sorted((used | set(recipe.limits)) - set(recipe.models)):
    raise user_error(f'{path}: models', unknown, 'are used, and not among the models')
  for name in ('chunk', 'buckets', 'threads'):
    if getattr(recipe, name) < 1:
      raise user_error(f'{path}: {name}', getattr(recipe, name), 'must be 1 or more')
