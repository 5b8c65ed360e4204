"""Disk space: checked before a save, and a one-line error when it runs out."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator

from etils import epath

from jaxgen.core.errors import user_error

MARGIN = 4 << 20  # bytes, for a checkpoint's metadata
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_TEXTS = tuple(os.strerror(code) for code in FULL)  # some libraries keep the text alone


def reserve(folder: epath.Path, size: int) -> None:
  """Raises ``OSError`` if another ``size`` bytes do not fit on a folder's disk.

  Many threads write a checkpoint. Running out of space in the middle would bury the reason under
  their tracebacks and leave a partial checkpoint behind. Buckets are not checked.
  """
  if not os.path.isdir(folder):
    return
  with tempfile.TemporaryFile(dir=folder) as file:
    os.posix_fallocate(file.fileno(), 0, size + MARGIN)


@contextlib.contextmanager
def disk_errors(workdir: str) -> Iterator[None]:
  """Turns a disk-full error, however deeply nested, into a one-line ``UserError``."""
  try:
    yield
  except Exception as error:
    if not _is_full(error):
      raise
    raise user_error(str(workdir), None, 'no room left on the disk while saving; free some space '
                     '(or lower train.keep) and run the same command again: it resumes from the '
                     'last complete checkpoint') from error


def _is_full(error: BaseException | None) -> bool:
  while error is not None:
    if isinstance(error, OSError) and error.errno in FULL:
      return True
    if any(text in str(error) for text in FULL_TEXTS):
      return True
    error = error.__cause__ or error.__context__
  return False
