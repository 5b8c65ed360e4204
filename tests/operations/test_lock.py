"""Locks on a workdir: who holds it, what is left of a killed process, what an error leaves."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time

import pytest
from etils import epath

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.operations import lock

HOLDER = '''
import sys, time
from etils import epath
from jaxgen.operations import lock
with lock.held(epath.Path(sys.argv[1]), sys.argv[2]):
  print('held', flush=True)
  time.sleep(600)
'''


@pytest.fixture
def workdir(tmp_path):
  return epath.Path(tmp_path / 'run')


@pytest.fixture
def holder(workdir):
  """A process that holds the lock of an evaluation, and is killed in the end."""
  process = subprocess.Popen([sys.executable, '-c', HOLDER, str(workdir), lock.EVALUATION],
                             stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.wait()


def without_locks(file, how):
  """As ``flock`` of a file system without locks."""
  raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_second_command_is_refused_until_the_first_has_ended_or_was_killed(
    workdir, holder, capsys):
  said = (f"^--workdir = '{workdir}': in use: evaluation by process {holder.pid} on "
          f'{socket.gethostname()} since 2.*; wait for it')
  with pytest.raises(UserError, match=said), lock.held(workdir, lock.EVALUATION):
    pass
  assert lock.holder(workdir, lock.EVALUATION).startswith(f'process {holder.pid} on ')
  with lock.held(workdir, lock.EVALUATION, leads=False):  # process 0 alone holds it
    pass
  with lock.held(workdir):  # a run that trains may be evaluated
    assert not lock.holder(workdir, 'other')
  (workdir / 'config.json').write_text('{}')
  assert cli.main(['evaluate', f'--workdir={workdir}']) == 1
  assert f'in use: evaluation by process {holder.pid}' in capsys.readouterr().err
  holder.kill()
  holder.wait()
  assert not lock.holder(workdir, lock.EVALUATION)
  with lock.held(workdir, lock.EVALUATION):
    assert f'evaluation.lock: left by process {holder.pid} on ' in capsys.readouterr().err
    with lock.held(workdir, lock.EVALUATION):  # of a command that this one calls
      pass
    assert (workdir / 'evaluation.lock').exists()
  assert [file.name for file in workdir.iterdir()] == ['config.json'] and (
      capsys.readouterr().err == '')


def test_an_error_leaves_no_empty_workdir(workdir):
  with pytest.raises(ZeroDivisionError), lock.held(workdir):
    raise ZeroDivisionError
  assert not workdir.exists()
  workdir.mkdir()  # one that was there stays
  with pytest.raises(ZeroDivisionError), lock.held(workdir):
    raise ZeroDivisionError
  assert workdir.exists() and not list(workdir.iterdir())


def test_a_lock_that_its_holder_removes_in_the_same_moment_is_not_taken_for_held(
    workdir, monkeypatch):
  """What is opened may be gone once it is locked, and another process may have made another."""
  flock, taken = fcntl.flock, []

  def late(file, how):
    flock(file, how)
    if not taken:
      os.unlink(file.name)
    taken.append(file.name)

  monkeypatch.setattr(fcntl, 'flock', late)
  with lock.held(workdir):
    assert len(taken) == 2 and (workdir / 'training.lock').exists()


@pytest.mark.parametrize('host, process, age, refused', [
    ('HERE', 'ALIVE', 0, True), ('HERE', 'ENDED', 0, False), ('HERE', 'ALIVE', 90, False),
    ('elsewhere', 'ENDED', 0, True), ('elsewhere', 'ENDED', 90, False)])
def test_without_locks_a_holder_that_has_ended_is_told_from_one_that_runs(
    workdir, monkeypatch, capsys, host, process, age, refused):
  monkeypatch.setattr(fcntl, 'flock', without_locks)
  number = os.getpid() if process == 'ALIVE' else 2**22 + 1  # above the greatest there may be
  host = socket.gethostname() if host == 'HERE' else host
  workdir.mkdir()
  file = workdir / 'training.lock'
  file.write_text(f'process {number} on {host} since 2026-01-01 00:00:00\n')
  os.utime(file, (time.time() - age,) * 2)
  assert bool(lock.holder(workdir, lock.TRAINING)) == refused
  if refused:
    with pytest.raises(UserError, match=f'in use: training by process {number} on {host}'):
      with lock.held(workdir):
        pass
  else:
    with lock.held(workdir):
      assert f'left by process {number} on {host}' in capsys.readouterr().err
    assert not file.exists()


def test_without_locks_the_holder_touches_the_file(workdir, monkeypatch):
  monkeypatch.setattr(fcntl, 'flock', without_locks)
  monkeypatch.setattr(lock, 'BEAT', 0.02)
  with lock.held(workdir):
    file = workdir / 'training.lock'
    os.utime(file, (0, 0))
    until = time.monotonic() + 30
    while file.stat().mtime < 1 and time.monotonic() < until:
      time.sleep(0.02)
    assert time.time() - file.stat().mtime < 60
