"""Loads config files, applies command-line overrides, and reads and writes a workdir's JSON."""

import ast
import importlib.util
import json
from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import schema
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Runs ``get_config()`` of a config file, applies overrides and locks the result.

  Args:
    path: a Python file; ``file.py:argument`` calls ``get_config('argument')``.
    overrides: ``section.key=value`` strings.

  Raises:
    UserError: a missing file, a broken config, an unknown key or a value of the wrong type.
  """
  file, _, argument = path.partition(':')
  if not epath.Path(file).exists():
    raise user_error('--config', file, 'no such file; see configs/ for those that ship')
  spec = importlib.util.spec_from_file_location('jaxgen_user_config', file)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(argument) if argument else module.get_config()
  except UserError:
    raise
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    text = ' '.join(str(error).strip('"').split())
    raise user_error('--config', path, f'{type(error).__name__}: {text}') from error
  config.lock()
  for override in overrides:
    _override(config, override)
  return config


def _override(config: ConfigDict, text: str) -> None:
  key, equals, value = text.partition('=')
  if not equals:
    raise user_error(f'--config.{key}', None, 'write --config.section.key=value')
  *sections, name = key.split('.')
  node = config
  for section in sections:
    if section not in node or not isinstance(node[section], ConfigDict):
      raise user_error(f'config.{key}', value, f'no such section; known: {sorted(node)}')
    node = node[section]
  if name not in node:
    raise user_error(f'config.{key}', value, f'no such field; known: {sorted(node)}')
  old = node[name]
  if isinstance(old, ConfigDict):
    raise user_error(f'config.{key}', value, f'this is a section; set one of {sorted(old)}')
  node[name] = _parse(f'config.{key}', value, old)


def _parse(where: str, text: str, old: Any) -> Any:
  """Parses ``text`` as a value of the field's type."""
  if isinstance(old, str):
    return text
  try:
    value = ast.literal_eval(text)
  except (SyntaxError, ValueError):
    value = {'true': True, 'false': False}.get(text.lower(), text)
  if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if isinstance(old, tuple) and isinstance(value, (list, int, float)):
    value = tuple(value) if isinstance(value, list) else (value,)
  if type(value) is not type(old):
    raise user_error(where, text, f'must be {type(old).__name__}, like {old!r}')
  return value


def to_json(config: ConfigDict) -> str:
  """The config as stable, readable JSON; ``from_json`` reads it back."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
  """Reads the JSON of a workdir; lists become tuples again, and the result is locked.

  A field that was added after the JSON was written gets its default, which keeps the behaviour
  that the run had.

  Raises:
    UserError: the JSON is not a jaxgen config.
  """
  def restore(value):
    if isinstance(value, dict):
      return {key: restore(item) for key, item in value.items()}
    return tuple(restore(item) for item in value) if isinstance(value, list) else value

  values, defaults = restore(json.loads(text)), schema.base_config().to_dict()
  missing = sorted(defaults.keys() - values.keys())
  if missing:
    raise user_error('config.json', missing, 'sections are missing; is this a jaxgen workdir?')
  config = ConfigDict(_filled(values, defaults))
  config.lock()
  return config


def _filled(values: Any, defaults: Any) -> Any:
  """The values, with defaults for missing fields."""
  if not isinstance(values, dict) or not isinstance(defaults, dict):
    return values
  return defaults | {name: _filled(value, defaults.get(name)) for name, value in values.items()}
