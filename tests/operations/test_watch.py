"""The watch: a step that hangs is shown, hosts that are lost end the process and are named."""

import pathlib
import subprocess
import sys

import pytest

from tests.training.launched import free_port

REPO = pathlib.Path(__file__).parents[2]
SCRIPT = '''
import json, os, socket, sys, threading, time
from jax._src.lib import _jax
from jaxgen.core.errors import user_error
from jaxgen.sharding.hosts import Hosts
from jaxgen.operations.watch import Watch


def pair():
  """Two hosts of one run; both clients live in this process."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    address = f'localhost:{probe.getsockname()[1]}'
  service = _jax.get_distributed_runtime_service(address, 2)
  clients = [_jax.get_distributed_runtime_client(address, index) for index in range(2)]
  other = threading.Thread(target=clients[1].connect)
  other.start()
  clients[0].connect()
  other.join()
  return service, [Hosts(client, i, 2, ('left', 'right')) for i, client in enumerate(clients)]


def beat(hosts, place):
  hosts.put(f'beats/{hosts.index}', json.dumps({'place': place, 'count': 1, 'runs': True}))


def hang(seconds):
  time.sleep(seconds)


service, (left, right) = pair()
'''
COORDINATOR = '''
import sys, time
from jax._src.lib import _jax

service = _jax.get_distributed_runtime_service(sys.argv[1], 2)
client = _jax.get_distributed_runtime_client(sys.argv[1], 0)
client.connect()
time.sleep(300)
'''
FOLLOWER = '''
import os, signal, sys, time
from jax._src.lib import _jax
from jaxgen.sharding.hosts import Hosts
from jaxgen.operations.watch import Watch

client = _jax.get_distributed_runtime_client(sys.argv[1], 1)
client.connect()
with Watch(Hosts(client, 1, 2, ('left', 'right')), 2.0) as watch:
  watch.step(7)
  os.kill(int(sys.argv[2]), signal.SIGSTOP)
  time.sleep(60)
'''


def run(code: str) -> subprocess.CompletedProcess:
  # Not by way of the interpreter's end, where clients and service would wait for each other.
  return subprocess.run([sys.executable, '-uc', f'{SCRIPT}{code}os._exit(0)'], text=True,
                        capture_output=True, timeout=300, check=False, cwd=REPO)


def test_a_step_of_ten_times_the_median_shows_all_stacks_once():
  result = run('''
with Watch(Hosts(None, 0, 1, ('alone',)), 1.0) as watch:
  for number in range(1, 5):
    watch.step(number)
    time.sleep(0.6)
  watch.step(5)
  hang(8)
  watch.at('a save')
  hang(6.5)
''')
  assert result.returncode == 0, result.stderr
  lines = result.stderr.splitlines()
  assert lines[0].startswith('jaxgen: process 0 (alone): step 5 takes 6.'), result.stderr
  assert 'its median is 0.6' in lines[0]
  assert result.stderr.count('the stacks of all threads') == 1
  assert ' in hang' in result.stderr


@pytest.mark.parametrize('place, verdict', [
    ('step 6', 'process 1 (right) has been silent for 2 s; it was at step 6'),
    ('error: no room left', 'process 1 (right) ended with error: no room left'),
])
def test_a_lost_host_is_named_and_the_process_ends(place, verdict):
  result = run(f'''
beat(right, {place!r})
with Watch(left, 2.0) as watch:
  watch.step(7)
  hang(60)
''')
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == (
      f'jaxgen: process 0 (left) at step 7: {verdict}; this process ends, start the run again to '
      'go on from the last checkpoint')


def test_the_coordinator_tells_its_verdict_before_it_ends():
  result = run('''
def listen():
  while True:
    print(right.texts('beats').get(0), flush=True)
    time.sleep(0.1)

beat(right, 'step 6')
threading.Thread(target=listen, daemon=True).start()
with Watch(left, 2.0) as watch:
  hang(60)
''')
  assert result.returncode == 1
  assert '"error: process 1 (right) has been silent for 2 s; it was at step 6"' in result.stdout


def test_a_coordinator_that_hangs_is_named_and_the_process_ends():
  address = f'localhost:{free_port()}'
  lead = subprocess.Popen([sys.executable, '-c', COORDINATOR, address], cwd=REPO)
  try:
    result = subprocess.run([sys.executable, '-c', FOLLOWER, address, str(lead.pid)], text=True,
                            capture_output=True, timeout=300, check=False, cwd=REPO)
  finally:
    lead.kill()
    lead.wait()
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1].startswith(
      'jaxgen: process 1 (right) at step 7: process 0 (left), the coordinator, has not answered '
      'for 2 s; this process ends'), result.stderr


def test_a_host_that_is_done_is_not_missed_and_an_error_reaches_the_others():
  result = run('''
with Watch(right, 2.0):
  pass
try:
  with Watch(left, 2.0) as watch:
    hang(5)
    raise user_error('disk', None, 'is full')
except ValueError:
  print(left.texts('beats'))
''')
  assert result.returncode == 0, result.stderr
  assert '"place": "error: disk: is full"' in result.stdout
  assert '"place": "done"' in result.stdout
