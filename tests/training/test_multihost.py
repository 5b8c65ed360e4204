"""Several processes on loopback: another config, SIGTERM, a host that hangs or dies."""

import copy
import re
import signal
import socket

import numpy as np
import pytest

from jaxgen.data.loader import make_loader
from jaxgen.training.metrics import ids_hash
from tests.training.launched import finish
from tests.training.launched import metrics_of
from tests.training.launched import steps_in
from tests.training.launched import steps_written
from tests.training.launched import wait_for

HOST = socket.gethostname()
# Steps after which every process has told the others that its first steps are behind it; until then
# they have more patience with it.
WELL_UNDER_WAY = 60


@pytest.fixture
def config(tiny_config):
  """Far too many steps, so that the test decides when they end."""
  tiny_config.train.update(steps=100_000, checkpoint_every=100_000, host_timeout=20.0)
  return tiny_config


@pytest.mark.parametrize('others, whom', [
    (1, '1 other'), pytest.param(3, '3 others', marks=pytest.mark.slow)])
def test_another_config_is_named_before_anything_is_computed(launcher, config, tmp_path, others,
                                                             whom):
  odd = copy.deepcopy(config)
  odd.optimizer.learning_rate = 2e-3
  configs = [config] * others + [odd]
  codes, errors = finish(launcher.start_all(configs, tmp_path / 'run', devices=1))
  assert codes == [1] * len(configs)
  for text in errors:
    assert (f'process {others} ({HOST}): config.optimizer.learning_rate is 0.002 there and 0.001 '
            f'on the {whom}; make them the same and start again') in text
    assert 'Traceback' not in text
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_another_program_is_named_before_the_first_step(launcher, config, tmp_path):
  """By a setting of jax that no list of ours knows; it changes how noise is drawn."""
  codes, errors = finish(launcher.start_all(
      [config] * 2, tmp_path / 'run', devices=1, last={'JAX_THREEFRY_PARTITIONABLE': '0'}))
  assert codes == [1, 1]
  for text in errors:
    assert re.search(rf'process 1 \({HOST}\): the train step is \w+ there and \w+ on the 1 other; '
                     'make them the same', text), text
  assert not steps_written(tmp_path / 'run')


def sample_hashes(config, system, steps):
  """What a run without a break would be fed, from the loader alone."""
  loader = make_loader(config, system.layout)
  hashes = [ids_hash(next(loader).batch.meta.sample_ids) for _ in range(steps)]
  loader.close()
  return hashes


def test_sigterm_to_one_saves_on_all_and_half_the_devices_go_on(launcher, config, tiny_system,
                                                                tmp_path):
  workdir = tmp_path / 'run'
  processes = launcher.start_all([config, config], workdir, devices=4)
  wait_for(processes[0], lambda: steps_written(workdir) >= 3)
  processes[1].send_signal(signal.SIGTERM)
  codes, errors = finish(processes)
  assert codes == [0, 0], errors
  [step] = steps_in(workdir)
  assert step >= 3 and step == steps_written(workdir)
  assert f'run: SIGTERM; saves step {step} and stops' in errors[0]
  # One process of four devices: two micro-batches of the same rows.
  config.train.steps = step + 3
  [code], [said] = finish([launcher.start(config, workdir, devices=4)])
  assert code == 0, said
  assert (f'run: resumes at step {step}; devices 8 -> 4, processes 2 -> 1, mesh.data 8 -> 4, '
          'micro-batches 1 -> 2; a step still takes 8 rows; train.steps 100000 -> '
          f'{step + 3}\n') in said
  ours = metrics_of(workdir, 'step', 'sample_ids')
  assert [line['step'] for line in ours] == list(range(1, config.train.steps + 1))
  assert [line['sample_ids'] for line in ours] == sample_hashes(
      config, tiny_system, config.train.steps)


@pytest.mark.parametrize('stop', [signal.SIGSTOP, signal.SIGKILL])
def test_a_host_that_is_lost_is_named_within_the_time_out(launcher, config, tmp_path, stop):
  workdir = tmp_path / 'run'
  processes = launcher.start_all([config, config], workdir, devices=1)
  wait_for(processes[0], lambda: steps_written(workdir) >= WELL_UNDER_WAY)
  processes[1].send_signal(stop)
  [code], [said] = finish(processes[:1])
  assert code == 1
  assert 20 <= seconds_after(f'process 1 ({HOST}) has been silent for ', said) < 40
  assert 'it was at step ' in said


def seconds_after(words, text):
  """The number of seconds that follows the words; by a clock that stands still while the process
  does, so a machine without time for the test does not matter."""
  found = re.search(re.escape(words) + r'(\d+) s', text)
  assert found, text
  return int(found[1])


def test_sigterm_to_a_single_process_saves_and_ends_with_the_code_it_was_told(launcher, config,
                                                                              tmp_path):
  workdir = tmp_path / 'run'
  process = launcher.start(config, workdir, devices=1, flags=['--stopped-code=75'])
  wait_for(process, lambda: steps_written(workdir) >= 2)
  process.send_signal(signal.SIGTERM)
  [code], [said] = finish([process])
  assert code == 75, said
  assert steps_in(workdir) == [steps_written(workdir)]


@pytest.mark.slow
@pytest.mark.parametrize('victim, stop, named', [
    (1, signal.SIGKILL, 'process 1 ({}) has been silent for '),
    (0, signal.SIGSTOP, 'process 0 ({}), the coordinator, has not answered for '),
    # Here JAX ends the others before they can say so themselves.
    (0, signal.SIGKILL, 'leader task was preempted/died'),
])
def test_four_processes_lose_one(launcher, config, tmp_path, victim, stop, named):
  workdir = tmp_path / 'run'
  processes = launcher.start_all([config] * 4, workdir, devices=1)
  wait_for(processes[0], lambda: steps_written(workdir) >= WELL_UNDER_WAY)
  processes[victim].send_signal(stop)
  codes, errors = finish([process for process in processes if process is not processes[victim]])
  assert all(codes), codes
  for text in errors:
    assert named.format(HOST) in text, text
    if named.endswith(' for '):
      assert 20 <= seconds_after(named.format(HOST), text) < 40


@pytest.mark.slow
def test_four_processes_and_then_two_equal_one(launcher, straight, config, tmp_path):
  config.train.update(steps=10, checkpoint_every=10)
  codes, errors = finish(launcher.start_all([config] * 4, tmp_path / 'run', devices=2))
  assert codes == [0] * 4, errors
  config.train.steps = 14
  codes, errors = finish(launcher.start_all([config] * 2, tmp_path / 'run', devices=4))
  assert codes == [0] * 2, errors
  assert ('run: resumes at step 10; processes 4 -> 2; a step still takes 8 rows; train.steps 10 -> '
          '14\n') in errors[0]
  ours = metrics_of(tmp_path / 'run', 'sample_ids', 'loss')
  theirs = metrics_of(straight, 'sample_ids', 'loss')[:14]
  assert [line['sample_ids'] for line in ours] == [line['sample_ids'] for line in theirs]
  np.testing.assert_allclose([line['loss'] for line in ours], [line['loss'] for line in theirs],
                             rtol=1e-5)
