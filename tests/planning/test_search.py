"""The search for a mesh: which settings it compiles, which it spares itself, what it prints."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from jaxgen.planning.search import Setting
from jaxgen.planning.search import settings
from jaxgen.planning.search import worth_trying
from jaxgen.planning.topology import parse

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def found(tiny_config):
  tiny_config.train.rows = 256
  return list(settings(tiny_config, parse('tpu:v5p:4x4x4')))


def test_settings_keep_the_global_batch_and_divide_it(found):
  assert len(set(found)) == len(found) > 20
  for one in found:
    assert one.data * one.fsdp * one.tensor == 64
    assert one.share * one.accumulate * one.data * one.fsdp == 256
  assert found[0] == Setting(1, 64, 1, 1, 'none', 4)


def test_what_does_not_fit_spares_all_that_hold_more(found):
  left = worth_trying(found, Setting(2, 32, 1, 1, 'dots', 4), fits=False)
  gone = set(found) - set(left)
  assert Setting(8, 8, 1, 1, 'none', 4) in gone
  # More devices for the state, fewer rows at once or more recomputation may still do.
  for other in (Setting(1, 64, 1, 1, 'none', 4), Setting(2, 32, 1, 2, 'none', 2),
                Setting(2, 32, 1, 1, 'attention', 4), Setting(1, 32, 2, 1, 'none', 8)):
    assert other in left
  assert all(one.fsdp <= 32 and one.share >= 4 and one.remat in ('none', 'dots') for one in gone)


def test_what_fits_spares_slower_ways_on_its_mesh(found):
  left = worth_trying(found, Setting(1, 64, 1, 1, 'dots', 4), fits=True)
  assert {one.remat for one in left if one.fsdp == 64} == {'none'}
  assert {one for one in found if one.fsdp != 64} <= set(left)


def test_gpus_share_parameters_in_a_node_first_and_then_beyond(tiny_config):
  tiny_config.train.rows = 256
  found = list(settings(tiny_config, parse('gpu:h800:8x8')))
  assert [one.fsdp for one in found if (one.tensor, one.accumulate, one.remat) == (
      1, 1, 'none')] == [8, 4, 2, 1, 64, 32, 16]
  assert max(one.tensor for one in found) == 8
  slices = settings(tiny_config, parse('tpu:v5p:2x2x1*2'))
  assert {one.fsdp * one.tensor for one in slices} == {1, 2, 4}


@pytest.mark.slow
def test_the_command_compiles_settings_and_prints_the_words_that_select_them(
    tiny_tokenizer, tmp_path):
  words = ['plan', '--config=configs/iomm/tiny.py', '--topology=tpu:v5p:2x2x1',
           f'--config.data.tokenizer={tiny_tokenizer}', f'--json={tmp_path / "plan.json"}']
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}

  def run(*more):
    done = subprocess.run([sys.executable, '-m', 'jaxgen.cli', *words, *more], cwd=ROOT,
                          env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

  lines = run('--search=3').splitlines()
  bounds = [float(line.split(' s,')[0]) for line in lines[::2]]
  assert len(bounds) == 3 and bounds == sorted(bounds)
  best = lines[1].split()
  mesh = dict(re.findall(r'mesh\.(\w+)=(\d+)', lines[1]))
  again = run(*best)
  for axis, size in mesh.items():
    assert int(size) == 1 or f'{axis}={size}' in again.splitlines()[0]
