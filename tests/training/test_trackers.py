"""Weights & Biases beside TensorBoard, through the real package without its server."""

import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
import wandb
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.training import trackers

ROOT = pathlib.Path(__file__).parents[2]
CHECK = '''
from jaxgen.config import base_config
from jaxgen.training import trackers
config = base_config()
config.train.wandb = 'drawing'
trackers.check(config)
'''
BLOCK = 32768  # bytes of a block of the log


def records(file):
  """The records of an offline run: a log of LevelDB's format behind a header of 7 bytes."""
  from wandb.proto.wandb_internal_pb2 import Record
  data, place, found = file.read_bytes(), 7, b''
  while place < len(data):
    if BLOCK - place % BLOCK < 7:
      place += BLOCK - place % BLOCK
      continue
    _, length, kind = struct.unpack('<IHB', data[place:place + 7])
    found += data[place + 7:place + 7 + length]
    place += 7 + length
    if kind in (1, 4):  # whole, or the last of its pieces
      record = Record()
      record.ParseFromString(found)
      yield record
      found = b''


def history(workdir):
  """Id and config fields of each start, and name -> number of each step that it logged."""
  for folder in sorted((workdir / 'wandb').glob('offline-run-*')):
    [file] = folder.glob('*.wandb')
    items = list(records(file))
    [run] = [record.run for record in items if record.HasField('run')][-1:]
    yield run, [{item.key or '.'.join(item.nested_key): float(item.value_json)
                 for item in record.history.item if '_' not in item.key[:1]}
                for record in items if record.HasField('history')
                and any('loss' in (item.key, *item.nested_key) for item in record.history.item)]


@pytest.fixture
def config(tiny_config):
  tiny_config.train.wandb = 'team/drawing'
  return tiny_config


def test_a_run_that_goes_on_is_one_run_and_lost_steps_come_again(config, tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  trackers.check(config)
  for steps in ((5, 10), (10, 15)):
    opened = trackers.opened(config, epath.Path(tmp_path))
    assert len(opened) == 2 and list(tmp_path.glob('events.out*'))
    for step in steps:
      for tracker in opened:
        tracker.write_scalars(step, {'loss': 1 / step, 'flow_matching/loss_source/pair': 0.5})
    for tracker in opened:
      tracker.write_images(step, {'drawn': np.zeros((1, 4, 4, 3), np.uint8)})
      tracker.close()
    wandb.teardown()  # its own process ends, and its files are whole
  (first, lines), (second, again) = history(tmp_path)
  assert first.run_id == second.run_id and first.project == 'drawing' and first.entity == 'team'
  assert 'flow_matching' in {item.key for item in first.config.update} | {
      name for item in first.config.update for name in item.value_json.split('"')}
  for found, steps in ((lines, (5, 10)), (again, (10, 15))):
    shown = [{name: line[name] for name in ('step', 'loss', 'flow_matching/loss_source/pair')}
             for line in found]
    assert shown == [{'step': step, 'loss': pytest.approx(1 / step),
                      'flow_matching/loss_source/pair': 0.5} for step in steps]
  assert len(list(tmp_path.glob('wandb/offline-run-*/files/media/images/drawn_*.png'))) == 2


def test_without_the_field_nothing_of_it_is_there(tiny_config, tmp_path):
  trackers.check(tiny_config)
  [board] = trackers.opened(tiny_config, epath.Path(tmp_path))
  board.close()
  assert not (tmp_path / 'wandb').exists() and not (tmp_path / trackers.FILE).exists()


@pytest.mark.parametrize('name, said', [
    ('a/b/c', 'write PROJECT or OWNER/PROJECT'), ('what?', 'write PROJECT or OWNER/PROJECT')])
def test_names_that_it_would_refuse_are_refused_at_once(config, name, said):
  config.train.wandb = name
  with pytest.raises(UserError, match=f'^config.train.wandb = .*{said}'):
    trackers.check(config)


def test_a_login_that_is_missing_is_named_before_the_training(tmp_path):
  environ = {name: value for name, value in os.environ.items() if not name.startswith('WANDB_')}
  environ |= dict(HOME=str(tmp_path), NETRC=str(tmp_path / 'netrc'), PYTHONPATH=str(ROOT),
                  WANDB_BASE_URL='http://127.0.0.1:9')
  result = subprocess.run([sys.executable, '-c', CHECK], text=True, capture_output=True,
                          check=False, env=environ, stdin=subprocess.DEVNULL)
  last = result.stderr.splitlines()[-1]
  assert 'UserError: config.train.wandb = ' in last and 'refuses it (' in last
  assert 'run `wandb login`, or set WANDB_MODE=offline' in last
