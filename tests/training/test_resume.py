"""Real processes: kill -9, a kill during a save, two processes, a full disk, other devices."""

import copy
import json
import resource
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from jaxgen.config import from_json
from jaxgen.core.errors import UserError
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.checkpoints.checkpoint import Checkpoints
from jaxgen.training.loop import train
from jaxgen.training.state import TrainState
from jaxgen.training.state import make_blueprint
from tests.training.launched import finish
from tests.training.launched import kill_when
from tests.training.launched import metrics_of
from tests.training.launched import steps_in
from tests.training.launched import wait_for
from tests.training.opened import Opened

AGREED = ('step', 'loss', 'sample_ids', 'grad_norm', 'learning_rate', 'skipped')


def lines_of(workdir):
  return metrics_of(workdir, *AGREED)


def restored(workdir, step, devices=8):
  """State and cursors of a checkpoint, restored on the first ``devices`` devices."""
  config = from_json((workdir / 'config.json').read_text())
  mesh = make_mesh(config.mesh, jax.devices()[:devices])
  system = make_system(config)
  groups = needed_groups(system, make_objectives(config))
  blueprint = make_blueprint(config, system, groups, mesh)
  checkpoints = Checkpoints(epath.Path(workdir), 2)
  items, cursors = checkpoints.restore(step, blueprint.state.items)
  state = TrainState.of_items(items)
  frozen = checkpoints.restore_frozen(blueprint.stored)
  checkpoints.close()
  assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == devices
  return jax.device_get((state, frozen)), cursors


def assert_same_bits(first, second):
  jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture
def interrupted(straight, tmp_path):
  """The run as if killed shortly before its save of step 20."""
  workdir = tmp_path / 'interrupted'
  shutil.copytree(straight, workdir)
  shutil.rmtree(workdir / 'checkpoints' / '20')
  for file in ('metrics.jsonl', 'starts.jsonl'):
    lines = (workdir / file).read_text().splitlines(keepends=True)
    (workdir / file).write_text(''.join(lines[:-1]))
  return workdir


def test_killed_in_a_restore_and_in_a_save_equals_straight(launcher, straight, interrupted,
                                                           tiny_base):
  """tools/kill_runs.py does the same at random points."""
  saves = interrupted / 'checkpoints'
  said = kill_when(launcher.start(tiny_base, interrupted), Opened(saves / '10' / 'train', 3))
  assert 'resumes at step' not in said
  assert steps_in(interrupted) == [10]
  # From step 10 into the save of step 20, whose folder has a temporary name.
  said = kill_when(launcher.start(tiny_base, interrupted), lambda: any(saves.glob('20.*')))
  assert 'interrupted: resumes at step 10\n' in said
  assert steps_in(interrupted) == [10] and any(saves.glob('20.*'))
  workdir = interrupted
  train(tiny_base, str(workdir))
  assert_same_bits(restored(workdir, 20), restored(straight, 20))
  assert lines_of(workdir) == lines_of(straight)
  assert not any(saves.glob('20.*'))
  # All starts that came to a step count, and only the steps that led to the end.
  starts = metrics_of(workdir, 'step', 'time', file='starts.jsonl')
  assert [start['step'] for start in starts] == [0, 10, 10, 20]
  useful = sum(line['seconds'] for line in metrics_of(workdir, 'seconds'))
  [*_, last] = metrics_of(workdir, 'goodput')
  began, again, done = (starts[index]['time'] for index in (0, 2, 3))
  assert 0.99 * useful / (done - began) < last['goodput'] < useful / (again - began)


def test_two_processes_of_four_devices_equal_one_of_eight(launcher, straight, tiny_base, tmp_path):
  config = copy.deepcopy(tiny_base)
  config.train.steps = 10
  workdir = tmp_path / 'pair'
  codes, errors = finish(launcher.start_all([config, config], workdir, devices=4))
  assert codes == [0, 0], errors
  ours, theirs = lines_of(workdir), lines_of(straight)[:10]
  assert [line['sample_ids'] for line in ours] == [line['sample_ids'] for line in theirs]
  np.testing.assert_allclose([line['loss'] for line in ours],
                             [line['loss'] for line in theirs], rtol=1e-5)
  (state, _), cursors = restored(workdir, 10)
  _, theirs = restored(straight, 10)
  np.testing.assert_array_equal(cursors, theirs)
  for devices in (1, 4):
    assert_same_bits(restored(workdir, 10, devices)[0][0], state)


def test_restores_on_one_four_and_eight_devices(straight):
  whole = restored(straight, 20)
  for devices in (1, 4):
    assert_same_bits(restored(straight, 20, devices), whole)
  assert int(whole[0][0].step) == 20


def test_full_disk_during_a_save(launcher, straight, interrupted, tiny_base):
  workdir = interrupted
  (workdir / 'metrics.jsonl').unlink()
  process = launcher.start(tiny_base, workdir)
  wait_for(process, lambda: (workdir / 'metrics.jsonl').exists() and lines_of(workdir))
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
  [code], [errors] = finish([process])
  assert code == 1, errors
  line = errors.splitlines()[-1]
  assert f'{workdir}: could not be written (' in line and 'Traceback' not in errors, errors
  assert steps_in(workdir) == [10]
  assert_same_bits(restored(workdir, 10), restored(straight, 10))


def test_frozen_parameters_are_stored_once(straight):
  assert (straight / 'frozen').is_dir()
  for step in (10, 20):
    names = {path.name for path in (straight / 'checkpoints' / str(step)).iterdir()}
    assert {'params', 'ema', 'train', 'data'} <= names and 'frozen' not in names


def test_a_finished_run_says_so_and_goes_on_with_more_steps(straight, tiny_base, tmp_path, capsys):
  workdir = tmp_path / 'longer'
  shutil.copytree(straight, workdir)
  train(tiny_base, str(workdir))
  assert 'all 20 steps are done' in capsys.readouterr().err
  config = copy.deepcopy(tiny_base)
  config.train.steps = 22
  train(config, str(workdir))
  assert 'longer: resumes at step 20; train.steps 20 -> 22\n' in capsys.readouterr().err
  assert lines_of(workdir)[:20] == lines_of(straight)
  assert [line['step'] for line in lines_of(workdir)[20:]] == [21, 22]


def test_a_damaged_checkpoint_is_named(straight, tiny_base, tmp_path):
  # Bits flipped all over the largest file of an item, as not every byte of it is in use. Each in a
  # folder of its own, as the files of the last one may still be cached.
  for item, folder in (('checkpoints/20/train', 'checkpoints/20'), ('frozen', 'frozen')):
    workdir = tmp_path / folder.replace('/', '_')
    shutil.copytree(straight, workdir)
    file = max((workdir / item).glob('ocdbt.process_0/d/*'), key=lambda file: file.stat().st_size)
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    data[::50] ^= 1
    file.write_bytes(data.tobytes())
    with pytest.raises(UserError, match=f'{workdir}/{folder}: damaged.*delete it'):
      restored(workdir, 20)
  # Arrays and cursors that are others than were saved, in files that are valid in themselves.
  workdir = tmp_path / 'damaged'
  shutil.copytree(straight, workdir)
  file = workdir / 'checkpoints/20/data/metadata'
  saved = json.loads(file.read_text())
  saved['cursors'][0][0] += 1
  saved['checksums']['ema/bridge/queries'] ^= 1
  file.write_text(json.dumps(saved))
  with pytest.raises(UserError, match=r'checkpoints/20: damaged .2 of \d+ arrays .* saved: '
                                      'data/cursors, ema/bridge/queries.; delete it'):
    restored(workdir, 20)
  shutil.rmtree(workdir / 'checkpoints' / '20' / 'train')
  with pytest.raises(UserError, match=r'checkpoints/20: damaged.*delete it') as error:
    restored(workdir, 20)
  assert '\n' not in str(error.value)
  shutil.rmtree(workdir / 'checkpoints' / '20')
  shutil.rmtree(workdir / 'frozen')
  with pytest.raises(UserError, match=r'frozen: missing, .* copy it back'):
    train(tiny_base, str(workdir))


@pytest.mark.slow
def test_a_second_start_compiles_nothing(launcher, tiny_config, tmp_path):
  """Another process, another workdir, the same programs: all of them come from the cache (F95)."""
  tiny_config.train.update(steps=1, checkpoint_every=10)
  cache = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache')}
  for name in ('first', 'second'):
    [code], [said] = finish([launcher.start(tiny_config, tmp_path / name, environment=cache)])
    assert code == 0, said
  [cold], [warm] = (metrics_of(tmp_path / name, 'programs', 'compiled', 'loss')
                    for name in ('first', 'second'))
  assert 0 < cold['compiled'] <= cold['programs'] == warm['programs']
  assert warm['compiled'] == 0 and warm['loss'] == cold['loss']
  assert f'{warm["programs"]} programs, 0 compiled' in said
