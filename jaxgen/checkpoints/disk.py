"""Disk space for a save: checked before it starts, and one line when a save fails."""

import contextlib
import os
import tempfile

from etils import epath

from jaxgen.core.files import writing

MARGIN = 4 << 20  # bytes, for a checkpoint's metadata


def reserve(folder: epath.Path, size: int) -> None:
  """Raises ``OSError`` if another ``size`` bytes do not fit on a folder's disk.

  Many threads write a checkpoint. Running out of space in the middle would bury the reason under
  their tracebacks and leave a partial checkpoint behind. Buckets are not checked.
  """
  if not os.path.isdir(folder):
    return
  with tempfile.TemporaryFile(dir=folder) as file:
    os.posix_fallocate(file.fileno(), 0, size + MARGIN)


def disk_errors(workdir: epath.Path) -> contextlib.AbstractContextManager[None]:
  """Turns a write to a workdir that fails, however deeply nested, into a one-line ``UserError``."""
  return writing(str(workdir), fix='free some space (or lower train.keep) and run the same '
                 'command again: it resumes from the last complete checkpoint')
