"""Loads config files, applies command-line overrides, and reads and writes a workdir's JSON."""

import ast
import importlib.util
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import schema
from jaxgen.core import formats
from jaxgen.core import python_files
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error

ADDED = {'validation'}  # sections that the JSON of older runs lacks


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Runs ``get_config()`` of a config file, applies overrides and locks the result.

  Args:
    path: a Python file; ``file.py:argument`` calls ``get_config('argument')``. A colon may stand
      in the path itself. ``configs/...`` is also found where it was installed. Or the
      ``config.json`` of a workdir.
    overrides: ``section.key=value`` strings.

  Raises:
    UserError: a missing file, a broken config, an unknown key or a value of the wrong type.
  """
  file, argument = _split(path)
  if file.endswith('.json'):
    try:
      text = epath.Path(file).read_text()
    except UnicodeDecodeError as error:
      raise user_error('--config', file, f'is not UTF-8 ({error}); save it as UTF-8') from None
    return overridden(from_json(text, file), overrides)
  config = python_files.call(
      epath.Path(file).read_bytes(), file, 'get_config', *([argument] if argument else []),
      module='jaxgen_user_config', where='--config', value=path)
  if not isinstance(config, ConfigDict):
    raise user_error('--config', path, 'get_config() must return a config, as base_config() '
                     f'makes, and not {type(config).__name__}')
  config.lock()
  return overridden(config, overrides)


def overridden(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """The config itself, after ``section.key=value`` strings; see ``load_config``."""
  for override in overrides:
    _override(config, override)
  return config


def _split(path: str) -> tuple[str, str]:
  """File and argument of ``file.py:argument``: the longest path before a colon that is a file."""
  ends = [index for index, sign in enumerate(path) if sign == ':']
  for end in (len(path), *reversed(ends)):
    for file in (path[:end], _shipped(path[:end])):
      if file and epath.Path(file).exists() and not epath.Path(file).is_dir():
        return file, path[end + 1:]
  file = path.partition(':')[0]
  if file and epath.Path(file).is_dir():
    raise user_error('--config', file, 'is a folder; name a Python file with get_config()')
  raise user_error('--config', file, 'no such file; see configs/ for those that ship')


def _shipped(path: str) -> str:
  """Where ``configs/...`` lies that was installed with jaxgen; '' for another path."""
  spec = importlib.util.find_spec('configs') if path.startswith('configs/') else None
  return str(pathlib.Path(spec.origin).parents[1] / path) if spec and spec.origin else ''


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
  return json.dumps({formats.KEY: formats.RUN} | config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str, where: str = 'config.json') -> ConfigDict:
  """Reads the JSON of a workdir; lists become tuples again, and the result is locked.

  A field that was added after the JSON was written gets its default, which keeps the behaviour
  that the run had.

  Args:
    text: the JSON.
    where: the file, for errors.

  Raises:
    UserError: it is no JSON, not that of a jaxgen config, or of a newer format.
  """
  def restore(value):
    if isinstance(value, dict):
      return {key: restore(item) for key, item in value.items()}
    return tuple(restore(item) for item in value) if isinstance(value, list) else value

  try:
    values, defaults = restore(json.loads(text)), schema.base_config().to_dict()
    if not isinstance(values, dict):
      raise TypeError('no object')
    formats.check(values, formats.RUN, where)
    values.pop(formats.KEY, None)
    missing = sorted(defaults.keys() - values.keys() - ADDED)
    if missing:
      raise user_error(where, missing, 'sections are missing; is this a jaxgen workdir?')
    for name in ('data', 'validation'):
      _add_sources(defaults[name], values.get(name))
    config = ConfigDict(_filled(values, defaults, f'{where}: '))
  except UserError:
    raise
  except (ValueError, TypeError, RecursionError) as error:  # of the JSON, or of names with dots
    raise user_error(where, None, f'is damaged ({error}); restore it from a copy') from error
  config.lock()
  return config


def _add_sources(defaults: dict[str, Any], section: Any) -> None:
  """Gives the defaults an entry for every source of a section, whose names are the run's own."""
  sources = section.get('sources') if isinstance(section, dict) else None
  for name in sources if isinstance(sources, dict) else ():
    defaults['sources'][name] = schema.source('').to_dict()


def _filled(values: Any, defaults: Any, where: str) -> Any:
  """The values, with defaults for missing fields; ``where`` names the field, for errors."""
  is_whole_float = isinstance(defaults, float) and type(values) is int
  if defaults is not None and type(values) is not type(defaults) and not is_whole_float:
    raise user_error(where.rstrip('.'), values, f'must be {type(defaults).__name__}; restore '
                     'the file from a copy')
  if not isinstance(values, dict) or defaults is None:
    return values
  return defaults | {name: _filled(value, defaults.get(name), f'{where}{name}.')
                     for name, value in values.items()}
