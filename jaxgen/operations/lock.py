"""Locks on a folder, so that two commands cannot write the same files.

A lock is a file that names its holder, and is there only while it is held: ``training.lock`` of
``train`` and ``finetune``, ``evaluation.lock`` of ``evaluate``, which may read a run that still
trains, ``curation.lock`` of ``curate``. Commands that write no file of a workdir, or one that is
replaced whole, need none.

The kernel releases a lock when its process ends, however it ends. On file systems without locks the
holder touches the file instead, and one that is not touched any longer is stale. Buckets are not
checked.
"""

import contextlib
import fcntl
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket
from jaxgen.core.files import writing

TRAINING, EVALUATION, CURATION = 'training', 'evaluation', 'curation'
BEAT = 10.0  # seconds between the touches of a holder
STALE = 60.0  # without one for so long, it is taken to have ended
_mine: set[str] = set()  # files of this process: a command may call another that locks the same


@contextlib.contextmanager
def held(workdir: epath.Path, kind: str = TRAINING, *, leads: bool = True,
         flag: str = '--workdir') -> Iterator[None]:
  """Makes the workdir and holds a lock on it; a workdir that stays empty is removed again.

  Args:
    workdir: of the run.
    kind: of the lock; two of other kinds do not exclude each other.
    leads: whether this process writes the files of a run of several.
    flag: that names the folder, for errors.

  Raises:
    UserError: another process holds it, or the workdir cannot be written.
  """
  path = os.path.abspath(workdir / f'{kind}.lock')
  if not leads or in_bucket(workdir) or path in _mine:
    yield
    return
  fresh = not workdir.exists()
  with writing(str(workdir)):
    workdir.mkdir(parents=True, exist_ok=True)
    file, by_kernel = _acquired(path, flag)
  _mine.add(path)
  with file, contextlib.nullcontext() if by_kernel else _touched(path):
    try:
      with writing(str(workdir)):
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()} since '
                   f'{time.strftime("%Y-%m-%d %H:%M:%S")}\n')
        file.flush()
      yield
    finally:  # while it is still held: whoever comes next must not lose his own
      _mine.remove(path)
      with contextlib.suppress(OSError):
        os.unlink(path)
        if fresh:
          os.rmdir(workdir)


def holder(workdir: epath.Path, kind: str) -> str:
  """Who holds a lock, as ``process N on HOST since TIME``; '' for nobody."""
  try:
    with open(workdir / f'{kind}.lock') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError:
        return file.read().strip()
      except OSError:  # no locks here
        return '' if _is_stale(file) else file.read().strip()
  except OSError:
    pass
  return ''


def _acquired(path: str, flag: str) -> tuple[TextIO, bool]:
  """The file of a lock that is now held, and whether the kernel keeps it."""
  while True:
    file = open(path, 'a+')
    by_kernel = True
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise _in_use(path, file, flag) from error
    except OSError:  # no locks here
      by_kernel = False
      if not _is_stale(file):
        raise _in_use(path, file, flag)
    with contextlib.suppress(OSError):
      if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        break
    file.close()  # its holder has just removed it; there may be another by now
  file.seek(0)
  if left := file.read().strip():
    print(f'jaxgen: {path}: left by {left}, which has ended; goes on', file=sys.stderr, flush=True)
  return file, by_kernel


def _in_use(path: str, file: TextIO, flag: str) -> Exception:
  file.seek(0)
  folder, name = os.path.split(path)
  with file:
    return user_error(flag, folder, f'in use: {name.removesuffix(".lock")} by '
                      f'{file.read().strip()}; wait for it or end it, or take another {flag}')


def _is_stale(file: TextIO) -> bool:
  """Whether the holder has ended, as far as it can be known without the kernel."""
  file.seek(0)
  text = file.read()
  file.seek(0)
  if not text or time.time() - os.fstat(file.fileno()).st_mtime > STALE:
    return True
  found = re.match(r'process (\d+) on (\S+)', text)
  return bool(found) and found[2] == socket.gethostname() and not os.path.exists(
      f'/proc/{found[1]}')


@contextlib.contextmanager
def _touched(path: str) -> Iterator[None]:
  """Touches a file every ``BEAT`` seconds."""
  ended = threading.Event()

  def touch() -> None:
    while not ended.wait(BEAT):
      with contextlib.suppress(OSError):
        os.utime(path)

  thread = threading.Thread(target=touch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
