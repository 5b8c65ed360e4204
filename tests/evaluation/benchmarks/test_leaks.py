"""A run that was trained on a benchmark is not evaluated on it; what was searched is kept."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.config import source
from jaxgen.config import to_json
from jaxgen.evaluation.benchmarks import leaks
from jaxgen.evaluation.benchmarks.registry import benchmark
from jaxgen.evaluation.benchmarks.registry import read_items


@pytest.fixture
def story(tmp_path):
  """``(folder of the benchmark, its items)``: one storyboard with a reference."""
  folder = tmp_path / 'stories'
  folder.mkdir()
  noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
  Image.fromarray(noise).resize((90, 90), Image.Resampling.BICUBIC).save(folder / 'cat.png')
  (folder / 'prompts.jsonl').write_text(json.dumps(dict(
      id='tale', prompt='A cat walks home.', outputs=2, references=['cat.png'])))
  return folder, read_items(benchmark('storyboard'), str(folder), '')


@pytest.fixture
def workdir(tmp_path, tiny_config):
  """A run's workdir with its config alone, trained on a folder of captioned images."""
  images, run = tmp_path / 'images', tmp_path / 'run'
  images.mkdir()
  run.mkdir()
  for number in range(3):
    noise = np.random.default_rng(9 + number).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(images / f'{number}.png')
    (images / f'{number}.txt').write_text(f'caption {number}')
  tiny_config.data.sources = dict(drawn=source('shapes', 'pair'),
                                  own=source('folder', 'pair', path=str(images)))
  (run / 'config.json').write_text(to_json(tiny_config))
  return run


def test_a_run_that_saw_the_benchmark_is_refused_and_names_the_samples(
    workdir, story, tmp_path, capsys):
  """A reference saved anew as JPEG, and a prompt in another case."""
  folder, _ = story
  images = tmp_path / 'images'
  Image.open(folder / 'cat.png').resize((60, 60)).save(images / 'copy.jpg', quality=70)
  (images / 'copy.txt').write_text('a cat')
  (images / '2.txt').write_text('a cat walks HOME')
  words = ['evaluate', f'--workdir={workdir}', '--benchmark=storyboard', f'--data={folder}',
           f'--out={tmp_path / "out"}']
  assert cli.main(words) == 1
  said = capsys.readouterr().err.splitlines()[-1]
  assert f'{workdir} was trained on it: text of tale in own: ' in said
  assert '2.png' in said and 'image of tale in own: ' in said and 'copy.jpg' in said
  assert 'say --allow-leaks' in said and not (tmp_path / 'out/drawn.json').exists()
  record = json.loads((workdir / 'leaks/storyboard.json').read_text())
  assert (record['records'], record['count']) == (4, 2)
  assert cli.main(['data', 'leaks', f'--workdir={workdir}', '--benchmark=storyboard',
                   f'--data={folder}']) == 1
  assert '2 leaks: text of tale in own' in capsys.readouterr().err


def test_a_search_is_kept_until_prompts_or_sources_change(workdir, story, tmp_path, capsys):
  folder, items = story
  words = ['data', 'leaks', f'--workdir={workdir}', '--benchmark=storyboard', f'--data={folder}']
  assert cli.main(words) == 0
  assert capsys.readouterr().out == (
      'storyboard: none of its 1 items in 3 samples, 0 of which cannot be read\n')
  (tmp_path / 'images/0.txt').write_text('A cat walks home.')
  assert leaks.check_run(str(workdir), 'storyboard', items) == 0  # as it was when it was searched
  config = json.loads((workdir / 'config.json').read_text())
  config['data']['sources']['own']['limit'] = 2
  (workdir / 'config.json').write_text(json.dumps(config))
  assert leaks.check_run(str(workdir), 'storyboard', items, allow=True) == 1
  assert leaks.check_run(str(workdir), 'other', items, allow=True) == 1


def test_sources_that_are_elsewhere_are_said_not_to_be_searched(workdir, story, tmp_path, capsys):
  """They do not stop an evaluation; the command that is to search them fails."""
  folder, items = story
  (tmp_path / 'images').rename(tmp_path / 'moved')
  assert leaks.check_run(str(workdir), 'storyboard', items) is None
  assert 'its training data were not searched for items of storyboard: config.data.sources.own' in (
      capsys.readouterr().err)
  assert cli.main(['data', 'leaks', f'--workdir={workdir}', '--benchmark=storyboard',
                   f'--data={folder}']) == 1
  assert capsys.readouterr().err.startswith('jaxgen: config.data.sources.own')
  assert cli.main(['data', 'leaks', '--benchmark=storyboard']) == 1
  assert 'give either --config or --workdir' in capsys.readouterr().err


def test_of_samples_that_are_made_of_images_the_images_are_searched(tiny_config, workdir, tmp_path):
  """Not the endless views and turns of each."""
  tiny_config.data.sources = dict(
      drawn=source('shapes', 'pair'),
      views=source('photos', path=str(tmp_path / 'images'), fields=(('task', 'views'),)))
  assert {name: len(own) for name, own in leaks.open_sources(tiny_config).items()} == dict(views=3)
