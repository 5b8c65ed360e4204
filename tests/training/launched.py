"""Runs of `jaxgen train` in processes of their own, for tests of what only such runs can show."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from jaxgen.config import to_json

REPO = pathlib.Path(__file__).parents[2]
PATIENCE = 1200  # seconds; a cold start on a busy machine compiles for minutes
CONFIG_FILE = '''"""The config of a test, as JSON."""

from jaxgen.config import from_json


def get_config():
  return from_json({text!r})
'''


class Launcher:
  """Starts processes and ends those that a test leaves behind."""

  def __init__(self):
    self._processes = []

  def start(self, config, workdir, *, devices=8, environment=(), flags=()):
    """One process; ``flags`` are further ones of the command."""
    file = workdir.parent / f'{workdir.name}_config_{len(self._processes)}.py'
    file.write_text(CONFIG_FILE.format(text=to_json(config)))
    xla = os.environ['XLA_FLAGS'].replace('device_count=8', f'device_count={devices}')
    process = subprocess.Popen(
        [sys.executable, '-m', 'jaxgen.cli', 'train', f'--config={file}', f'--workdir={workdir}',
         *flags], cwd=REPO, env=os.environ | {'XLA_FLAGS': xla} | dict(environment), text=True,
        stderr=subprocess.PIPE)
    self._processes.append(process)
    return process

  def start_all(self, configs, workdir, *, devices, flags=(), last=()):
    """One process for each config, all of one run; ``last`` are variables of the last one."""
    port, count = free_port(), len(configs)
    return [self.start(config, workdir, devices=devices, flags=flags, environment={
        'JAXGEN_COORDINATOR': f'localhost:{port}', 'JAXGEN_NUM_PROCESSES': str(count),
        'JAXGEN_PROCESS_ID': str(index)} | dict(last if index == count - 1 else ()))
            for index, config in enumerate(configs)]

  def close(self):
    """Kills what still runs."""
    for process in self._processes:
      process.kill()
      process.wait()


def free_port():
  """A port of this machine that nobody uses now."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def wait_for(process, appears):
  """Waits until ``appears()`` is true."""
  end = time.monotonic() + PATIENCE
  while not appears():
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < end, 'the process did not come that far'
    time.sleep(0.002)


def kill_when(process, appears):
  """Sends SIGKILL as soon as ``appears()`` is true; returns what the process has said."""
  wait_for(process, appears)
  process.send_signal(signal.SIGKILL)
  _, said = process.communicate()
  assert process.returncode == -signal.SIGKILL
  return said


def finish(processes):
  """Waits for the processes; returns the exit code and standard error of each."""
  errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
  return [process.returncode for process in processes], errors


def steps_written(workdir):
  """How many steps metrics.jsonl has so far."""
  file = workdir / 'metrics.jsonl'
  return file.read_text().count('\n') if file.exists() else 0


def metrics_of(workdir, *names, file='metrics.jsonl'):
  """The named metrics of every step."""
  lines = (workdir / file).read_text().splitlines()
  return [{name: json.loads(line)[name] for name in names} for line in lines]


def steps_in(workdir):
  """Steps that have a complete checkpoint."""
  return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir()
                if path.name.isdigit())
