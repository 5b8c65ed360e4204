"""Reads of array files that fail: one line that names the folder."""

import contextlib
import sys
from collections.abc import Iterator

import jax
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.files import one_line

# What a read may raise though no file is damaged.
_NO_DAMAGE = (UserError, MemoryError, jax.errors.JaxRuntimeError)
_CLOSED = 'Event loop is closed'


@contextlib.contextmanager
def reading(folder: epath.Path, fix: str, kind: str = 'damaged') -> Iterator[None]:
  """Names the folder whose files turn out to be damaged.

  Args:
    folder: that is read.
    fix: what to do then.
    kind: what an error means.

  Raises:
    UserError: whatever a library raises for files that it cannot read.
  """
  hooks = sys.excepthook, sys.unraisablehook
  _mute_other_reads()
  try:
    yield
  except _NO_DAMAGE:
    raise
  except Exception as error:  # Orbax raises no narrower class for an array that it cannot read
    text = one_line(error).partition('. See full TensorStore')[0]
    raise user_error(str(folder), None, f'{kind} ({text}); {fix}') from error
  # After a failure the hooks stay: the other reads still go on.
  sys.excepthook, sys.unraisablehook = hooks


def _mute_other_reads() -> None:
  """Drops what the reads beside one that has failed would print, hundreds of tracebacks.

  Orbax closes its event loop under them, and neither waits for them nor cancels them.
  """
  show, show_ignored = sys.excepthook, sys.unraisablehook

  def excepthook(kind, error, traceback):
    if not (isinstance(error, RuntimeError) and str(error) == _CLOSED):
      show(kind, error, traceback)

  def unraisablehook(ignored):
    if not getattr(ignored.object, '__name__', '').startswith('_read_array'):
      show_ignored(ignored)

  sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
