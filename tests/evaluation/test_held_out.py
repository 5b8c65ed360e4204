"""Held-out samples: PSNR beside that of a copy, by source and by first step."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import source
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.decode import DecodeError
from jaxgen.evaluation import held_out
from jaxgen.evaluation.pixels import psnr
from jaxgen.evaluation.held_out import Held
from jaxgen.evaluation.held_out import compare
from jaxgen.evaluation.held_out import evaluate_held_out
from jaxgen.systems.registry import make_system


def grey(level: int) -> np.ndarray:
  return np.full((4, 4, 3), level, np.uint8)


def test_outputs_are_compared_with_a_copy_by_hand():
  held = [Held('turns', '1. dim 2. dim', None, grey(200), [grey(100), grey(50)]),
          Held('turns', '1. keep', None, grey(9), [grey(9)]),  # which a copy gets right
          Held('turns', '1. dim', None, grey(180), [grey(90)])]
  table = compare(held, [[grey(110), grey(10)], [grey(0)], [grey(190)]])
  copied = [psnr(grey(200), grey(100)), psnr(grey(200), grey(50)), psnr(grey(180), grey(90))]
  found = [psnr(grey(110), grey(100)), psnr(grey(10), grey(50)), psnr(grey(190), grey(90))]
  assert list(table) == ['turns', 'turns: dim']
  assert table['turns'] == dict(psnr=pytest.approx(np.mean(found)),
                                copied=pytest.approx(np.mean(copied)),
                                better=pytest.approx(2 / 3), outputs=3)
  assert table['turns: dim'] == dict(psnr=pytest.approx(np.mean([found[0], found[2]])),
                                     copied=pytest.approx(np.mean([copied[0], copied[2]])),
                                     better=0.5, outputs=2)


@pytest.fixture
def workdir(tmp_path, tiny_config):
  """A run with random weights and two kinds of sources."""
  photos = tmp_path / 'photos'
  photos.mkdir()
  rng = np.random.default_rng(0)
  for name in ('bag', 'cat', 'dog'):
    Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8)).save(photos / f'{name}.png')
  tiny_config.data.sources = {
      'turns': source('photos', 'many_to_many', path=str(photos), fields=(('task', 'turns'),)),
      'edits': source('shapes', 'edit', path='edit')}
  tiny_config.data.update(clean_roles=('source',), prompt_tokens=96, visual_tokens=64, patches=64)
  tiny_config.sampling.update(steps=1, guidance=1.0)
  shapes = make_system(tiny_config).shapes()
  params = trees.map_named(lambda _, leaf: np.float32(rng.normal(0, 0.1, leaf.shape)), shapes)
  folder = tmp_path / 'run'
  save_weights(str(folder), params, to_json(tiny_config))
  return folder


def test_the_command_measures_held_out_samples(workdir, capsys):
  assert cli.main(['evaluate', f'--workdir={workdir}', '--held-out=2']) == 0
  said = capsys.readouterr().out.splitlines()
  record = json.loads((workdir / 'held_out.json').read_text())
  assert record['samples'] == 4 and len(said) == len(record['table'])
  for name in ('turns', 'edits'):
    row = record['table'][name]
    assert row['psnr'] < 20 and row['copied'] > 0  # nothing was trained
  assert (workdir / 'samples/held_out.png').exists()
  assert evaluate_held_out(str(workdir), 2) == record['table']


def test_runs_that_hold_nothing_out(workdir, tiny_config):
  for sources, said in (({'pairs': source('shapes', 'pair')}, 'are given no image that could be'),
                        ({'mine': source('folder', path='x')}, 'no source of this run holds')):
    tiny_config.data.sources = sources
    (workdir / 'config.json').write_text(to_json(tiny_config))
    with pytest.raises(UserError, match=said):
      evaluate_held_out(str(workdir), 2)


def test_records_that_cannot_be_read_are_left_out(tiny_config, monkeypatch):
  class Broken:
    def __len__(self):
      return 2

    def __getitem__(self, index):
      raise DecodeError('no such file')

  tiny_config.data.sources = {'turns': source('photos', 'many_to_many', path='photos')}
  monkeypatch.setattr(held_out, 'open_spec', lambda *_: Broken())
  run = types.SimpleNamespace(config=tiny_config)
  with pytest.raises(UserError, match='none of these records of the source turns can be read'):
    held_out._held(run, 'turns', 2, 0)
