"""Packages of the extra ``curate``, which a stage or model imports when it runs."""

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


def opencv() -> types.ModuleType:
  """OpenCV on one core: workers are processes, each of which has one."""
  cv2 = extra('cv2', 'opencv-python-headless')
  cv2.setNumThreads(1)
  return cv2
