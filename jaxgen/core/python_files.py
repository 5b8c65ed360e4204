"""Calls a function of a Python file of the user's, as configs and recipes are."""

import traceback
import types
from typing import Any

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error


def call(source: bytes, file: str, function: str, *arguments: str, module: str, where: str,
         value: str) -> Any:
  """Runs a file and returns what ``function(*arguments)`` of it returns.

  Args:
    source: contents of the file.
    file: its path.
    function: name.
    module: ``__name__`` of what the file defines.
    where, value: how the user named the file, for errors.

  Raises:
    UserError: whatever goes wrong in the file, with its line.
  """
  namespace = types.ModuleType(module)
  namespace.__file__ = file
  try:
    exec(compile(source, file, 'exec'), namespace.__dict__)
    return getattr(namespace, function)(*arguments)
  except UserError:
    raise
  except Exception as error:  # whatever the user's own code does
    text = ' '.join(str(error).strip('"').split())
    raise user_error(where, value, f'{_line(error, file)}{type(error).__name__}: {text}'
                     ) from error


def _line(error: Exception, file: str) -> str:
  """Where in the file something went wrong: 'line 5: ', or '' where it did elsewhere."""
  if isinstance(error, SyntaxError):
    return f'line {error.lineno}: ' if error.lineno else ''
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if frame.filename == file]
  return f'line {lines[-1]}: ' if lines else ''
