"""Fields of a call, from JSON or from a form, as values of their kinds."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from jaxgen.core.limits import MAX_GUIDANCE
from jaxgen.core.limits import MAX_SEED
from jaxgen.data.buckets import Size
from jaxgen.serving.errors import ApiError
from jaxgen.serving.kinds import named_size
from jaxgen.serving.limits import Limits

# What OpenAI's clients may send that means nothing here.
IGNORED = frozenset({
    'user', 'quality', 'style', 'moderation', 'input_fidelity', 'safety_identifier', 'store',
    'output_compression', 'partial_images', 'metadata', 'service_tier', 'stream_options',
    'presence_penalty', 'frequency_penalty'})


@dataclasses.dataclass(frozen=True)
class Field:
  """One field.

  Attributes:
    kind: ``str``, ``int``, ``float``, ``bool`` or ``list`` of strings.
    least, most: of a number.
    choices: of a string; () = any.
    default: where it is not given, or null.
  """

  kind: type
  least: float | None = None
  most: float | None = None
  choices: tuple[str, ...] = ()
  default: Any = None


def shared_fields(limits: Limits) -> dict[str, Field]:
  """The fields of every route that draws."""
  return dict(
      model=Field(str), stream=Field(bool, default=False), size=Field(str, default='auto'),
      seed=Field(int, 0, MAX_SEED), steps=Field(int, 1, limits.steps, default=0),
      guidance=Field(float, 0, MAX_GUIDANCE), image_guidance=Field(float, 0, MAX_GUIDANCE),
      timeout=Field(float, 0.001, limits.seconds, default=limits.seconds))


def asked_size(fields: Mapping[str, Any]) -> Size | None:
  """(height, width) of the field ``size``; None for ``auto``. Raises a ``UserError`` otherwise."""
  size = fields['size']
  return None if size == 'auto' else named_size(size[:20], 'size')


def read(given: Mapping[str, Any], known: Mapping[str, Field]) -> dict[str, Any]:
  """All known fields, with defaults for those that are not given.

  Args:
    given: of a JSON object, or of a form, whose values are strings.
    known: name -> field.

  Raises:
    ApiError: an unknown field, or a value of another kind or out of its range.
  """
  for name in given:
    if name not in known and name not in IGNORED:
      raise ApiError(400, f'{name}: no such field; known: {", ".join(known)}', param=name,
                     code='unknown_parameter')
  return {name: field.default if given.get(name) is None else _value(name, given[name], field)
          for name, field in known.items()}


def _value(name: str, value: Any, field: Field) -> Any:
  """The value as its kind."""
  kinds = dict(str='a string', int='a whole number', float='a number', bool='true or false',
               list='a list of strings')
  result = _converted(value, field.kind)
  if result is None:
    raise ApiError(400, f'{name}: must be {kinds[field.kind.__name__]}', param=name,
                   code='invalid_type')
  if field.choices and result not in field.choices:
    raise ApiError(400, f'{name} = {result[:50]!r}: use {" or ".join(field.choices)}', param=name,
                   code='invalid_value')
  if field.kind in (int, float) and not field.least <= result <= field.most:
    raise ApiError(400, f'{name} = {result:g}: use {field.least:g} to {field.most:g}', param=name,
                   code='invalid_value')
  return result


def _converted(value: Any, kind: type) -> Any:
  """The value, or what the string of a form stands for; None where it is of another kind."""
  if kind is list:
    value = [value] if isinstance(value, str) else value
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value
                                                    ) else None
  if kind is str:
    return value if isinstance(value, str) else None
  if isinstance(value, str):
    try:
      value = json.loads(value[:50])
    except ValueError:
      return None
  if kind is bool:
    return value if isinstance(value, bool) else None
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return None
  if kind is int:
    return int(value) if abs(value) < 2**53 and value == int(value) else None
  try:
    return float(value)
  except OverflowError:  # JSON has whole numbers that are larger than any float
    return math.inf
