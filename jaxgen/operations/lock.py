"""A lock on a workdir, so that two trainings cannot write the same files.

The kernel releases it when its process ends, however it ends. Where the file system of the workdir
has no locks (buckets, some network file systems), nothing is checked.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import writing
from jaxgen.sharding.hosts import Hosts

FILE = 'training.lock'


@contextlib.contextmanager
def held(workdir: epath.Path, hosts: Hosts) -> Iterator[None]:
  """Makes the workdir and holds its lock, in process 0 alone.

  Raises:
    UserError: another training holds it, or the workdir cannot be written.
  """
  if hosts.index != 0 or '://' in str(workdir):
    yield
    return
  with writing(str(workdir)):
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / FILE, 'a+')
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise user_error('--workdir', str(workdir), f'a training runs there ({file.read().strip()}); '
                       'wait for it or end it, or take another --workdir') from error
    except OSError:  # no locks here
      pass
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    yield
