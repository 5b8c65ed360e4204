"""A workdir drawn from, in the library and on the command line, and workdirs that do not fit."""

import copy
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.checkpoints.weights import save_weights
from jaxgen.sampling.load import load_run


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, tiny_base, tiny_system) -> pathlib.Path:
  """Random weights where a run would have trained ones; its config packs three samples a row."""
  config = copy.deepcopy(tiny_base)
  config.data.segments_per_row = 3
  config.sampling.update(steps=2, guidance=2.0)
  rng = np.random.default_rng(0)
  params = trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0, 0.2, leaf.shape)), tiny_system.shapes())
  folder = tmp_path_factory.mktemp('runs') / 'run'
  save_weights(str(folder), params, to_json(config))
  return folder


def test_sample_command(workdir, tmp_path, capsys):
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('a red circle\n\n  a blue square \n')
  out = tmp_path / 'images'
  code = cli.main(['sample', f'--workdir={workdir}', '--prompt=a cross', f'--out={out}',
                   f'--prompts-file={prompts}', '--seed=3'])
  assert code == 0
  files = [out / f'000{number}.png' for number in range(3)]
  assert capsys.readouterr().out == ''.join(f'{file}\n' for file in files)
  texts = ['a cross', 'a red circle', 'a blue square']
  assert list(json.loads((out / 'prompts.json').read_text()).values()) == texts
  again = load_run(str(workdir)).generate(texts, seed=3)
  for file, image in zip(files, again, strict=True):
    np.testing.assert_array_equal(np.asarray(Image.open(file)), image)


def test_rows_are_images(workdir):
  assert load_run(str(workdir)).system.segments_per_row == 1


def copied(workdir: pathlib.Path, target: pathlib.Path, change) -> str:
  """The weights under a config that ``change`` has edited."""
  target.mkdir()
  config = json.loads((workdir / 'config.json').read_text())
  change(config)
  (target / 'config.json').write_text(json.dumps(config))
  (target / 'weights').symlink_to(workdir / 'weights')
  return str(target)


def test_weights_of_another_config(workdir, tmp_path):
  folder = copied(workdir, tmp_path / 'other', lambda config: config['model']['denoiser'].update(
      single_blocks=3))
  with pytest.raises(UserError, match=r'other: these weights do not fit.*misshapen: denoiser/'):
    load_run(folder)


def test_sizes_that_do_not_fit_each_other(workdir, tmp_path):
  folder = copied(workdir, tmp_path / 'other', lambda config: config['model']['denoiser'].update(
      cond_dim=48))
  with pytest.raises(UserError, match='config.model.denoiser.cond_dim = 48: must equal'):
    load_run(folder)


def test_run_without_a_checkpoint(workdir, tmp_path):
  (tmp_path / 'config.json').write_text((workdir / 'config.json').read_text())
  with pytest.raises(UserError, match='no checkpoint there yet'):
    load_run(str(tmp_path))


def test_tokenizer_that_is_gone(workdir, tmp_path):
  folder = copied(workdir, tmp_path / 'other', lambda config: config['data'].update(
      tokenizer=str(tmp_path / 'nothing')))
  with pytest.raises(UserError, match='config.data.tokenizer'):
    load_run(folder)
