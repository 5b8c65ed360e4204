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
from jaxgen.data.examples import ExampleMaker
from jaxgen.sampling.generate import generate
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import make_requests


def random_params(system):
  rng = np.random.default_rng(0)
  return trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0, 0.2, leaf.shape)), system.shapes())


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, tiny_base, tiny_system) -> pathlib.Path:
  """Random weights where a run would have trained ones; its config packs three samples a row."""
  config = copy.deepcopy(tiny_base)
  config.data.segments_per_row = 3
  config.sampling.update(steps=2, guidance=2.0)
  params = random_params(tiny_system)
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
  printed, shown = capsys.readouterr()
  assert printed == ''.join(f'{file}\n' for file in files)
  assert 'drawn 3/3' in shown
  texts = ['a cross', 'a red circle', 'a blue square']
  results = json.loads((out / 'results.json').read_text())
  assert [result['name'] for result in results] == [f'prompt {text!r}' for text in texts]
  again = load_run(str(workdir)).generate(texts, seed=3)
  for file, image in zip(files, again, strict=True):
    np.testing.assert_array_equal(np.asarray(Image.open(file)), image)


def test_a_workdir_draws_what_its_parameters_drew_in_memory(workdir, tiny_system):
  """Bit by bit (F87)."""
  run = load_run(str(workdir))
  requests = make_requests(run.config, ['a cross', 'a red circle', 'a blue square'], seed=3)
  drawn = generate(tiny_system, random_params(tiny_system), requests, config=run.config,
                   maker=ExampleMaker.of(run.config, tiny_system.layout))
  for ours, theirs in zip(run.draw(requests), drawn, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_images_from_flags_and_from_a_job(workdir, tmp_path, capsys):
  """The same request in both ways: two images in the prompt, two outputs of another size."""
  for name in ('a', 'b'):
    pixels = np.full((9, 12, 3), 200 if name == 'a' else 30, np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{name}.png')
  job = tmp_path / 'job.json'
  job.write_text(json.dumps([{'prompt': 'make it red', 'source': ['a.png'], 'context': 'b.png',
                              'size': '8x16', 'outputs': 2}]))
  sample = ['sample', f'--workdir={workdir}', '--seed=3', '--guidance=1']
  flags = [*sample, '--prompt=make it red', '--size=8x16', '--outputs=2',
           f'--context={tmp_path / "b.png"}']
  for words in ([*flags, f'--out={tmp_path / "one"}', f'--source={tmp_path / "a.png"}'],
                [*sample, f'--out={tmp_path / "two"}', f'--job={job}'],
                [*flags, f'--out={tmp_path / "other"}', f'--source={tmp_path / "b.png"}']):
    assert cli.main(words) == 0
  for name in ('0000_0.png', '0000_1.png'):
    one, two, other = (np.asarray(Image.open(tmp_path / out / name))
                       for out in ('one', 'two', 'other'))
    assert one.shape == (8, 16, 3)
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()  # the language model sees the source


def test_nothing_is_written_where_a_job_is_wrong(workdir, tmp_path, capsys):
  job, out = tmp_path / 'job.json', tmp_path / 'out'
  job.write_text('[{"prompt": "a cross"}, {"prompt": "a cat", "size": "wide"}]')
  assert cli.main(['sample', f'--workdir={workdir}', f'--job={job}', f'--out={out}']) == 1
  printed, error = capsys.readouterr()
  assert printed == '' and error == (
      f"jaxgen: {job}[1].size = 'wide': write one number, or HEIGHTxWIDTH, as 512x768\n")
  assert not out.exists()


def test_a_system_without_presets_says_so(workdir, tmp_path, capsys):
  assert cli.main(['sample', f'--workdir={workdir}', '--prompt=a cross', f'--out={tmp_path}',
                   '--preset=paper']) == 1
  assert capsys.readouterr() == (
      '', "jaxgen: --preset = 'paper': the system iomm has none; leave it out\n")


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
