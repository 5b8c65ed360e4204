"""Formats of what is saved: an older jaxgen says so where a newer one has written.

A number is raised by whatever change makes older code read something wrong. What has none is from
before there were numbers, and is read.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json

KEY = 'format'  # in the JSON file that says what a folder is
RUN = 1  # config.json of workdirs and weights folders, and all that stands beside it
FIX = 'copy it back, or take the one of another workdir with the same config'


def check(found: Mapping[str, Any], newest: int, where: str, key: str = KEY) -> None:
  """Raises a ``UserError`` where something was written in a format that is not known yet.

  Args:
    found: what stands in the file.
    newest: format that this jaxgen writes, and up to which it reads.
    where: the file.
    key: name of the format in it.
  """
  number = found.get(key, newest)
  if isinstance(number, int) and number <= newest:
    return
  raise user_error(f'{where}: {key}', number, f'written by a newer jaxgen; this one reads {key} '
                   f'{newest} and older; `pip install --upgrade jaxgen`')


def read_run(folder: epath.PathLike) -> dict[str, Any]:
  """config.json of a workdir or weights folder.

  Raises:
    UserError: it is damaged, or of a newer format.
  """
  file = epath.Path(folder) / 'config.json'
  found = read_json(file, FIX)
  check(found, RUN, str(file))
  return found


def check_run(folder: epath.PathLike) -> None:
  """As ``read_run``, where there may be no run yet."""
  if (epath.Path(folder) / 'config.json').exists():
    read_run(folder)
