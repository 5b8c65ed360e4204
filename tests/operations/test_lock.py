"""One training in a workdir, whose lock ends with its process."""

import subprocess
import sys

import pytest
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.operations import lock
from jaxgen.sharding.hosts import Hosts

ALONE = Hosts(None, 0, 1)
HOLDER = '''
import sys, time
from etils import epath
from jaxgen.operations import lock
from jaxgen.sharding.hosts import Hosts
with lock.held(epath.Path(sys.argv[1]), Hosts(None, 0, 1)):
  print('held', flush=True)
  time.sleep(600)
'''


def test_a_second_training_is_refused_until_the_first_has_ended_or_was_killed(tmp_path):
  workdir = epath.Path(tmp_path / 'run')
  holder = subprocess.Popen([sys.executable, '-c', HOLDER, str(workdir)], stdout=subprocess.PIPE,
                            text=True)
  try:
    assert holder.stdout.readline() == 'held\n'
    with pytest.raises(UserError, match=f"^--workdir = .*run': a training runs there .process "
                                        f'{holder.pid} on '):
      with lock.held(workdir, ALONE):
        pass
    with lock.held(workdir, Hosts(None, 1, 2)):  # process 0 alone holds it
      pass
  finally:
    holder.kill()
    holder.wait()
  for _ in range(2):
    with lock.held(workdir, ALONE):
      with pytest.raises(UserError, match='a training runs there'):
        with lock.held(workdir, ALONE):
          pass
