"""Packages of the extra ``curate``, which a default install lacks."""

import importlib
import types

from jaxgen.core.errors import user_error


def extra(module: str, package: str) -> types.ModuleType:
  """A module of one of them.

  Raises:
    UserError: the package is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError:
    raise user_error('RECIPE', None, f'a stage or model of it needs the package {package}; pip '
                     'install "jaxgen[curate]"') from None
