"""Packages of the extra ``curate``, which a stage imports when it runs."""

import importlib
from typing import Any

from jaxgen.core.errors import user_error


def extra(module: str, package: str, stage: str) -> Any:
  """The module of a package that a default install lacks.

  Args:
    module: its name.
    package: that has it.
    stage: that needs it, for the error.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError:
    raise user_error('RECIPE', stage, f'needs the package {package}; pip install '
                     '"jaxgen[curate]"') from None


def opencv(stage: str) -> Any:
  """OpenCV on one core: workers are processes, each of which has one."""
  cv2 = extra('cv2', 'opencv-python-headless', stage)
  cv2.setNumThreads(1)
  return cv2
