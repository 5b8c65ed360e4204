"""The TFDS builder of ``shapes``: what it stores is what is drawn."""

import subprocess
import sys

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.decode import decode
from jaxgen.data.shapes.geneval import ShapesSource
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.source import DRAWN
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.data.shapes.tfds import main
from jaxgen.data.shapes.tfds import Shapes
from jaxgen.data.shapes.tfds import ShapesConfig
from jaxgen.data.sources import open_source


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  config = ShapesConfig(name='tiny', size=16, train=6, test=3, seed=4)
  builder = Shapes(config=config, data_dir=str(tmp_path_factory.mktemp('tfds')))
  builder.download_and_prepare()
  return str(builder.data_path)


@pytest.mark.parametrize('split, count', [('train', 6), ('test', 3)])
def test_scenes_are_those_that_are_drawn(split, count, prepared):
  source, scenes = open_source('tfds', prepared, split=split), ShapesSource(split, 16, 4)
  assert len(source) == count
  seen = set()
  for sample in (source[index] for index in range(count)):
    number = int(sample.id.rpartition('/')[2])
    seen.add(number)
    assert sample.texts[0].text == scenes[number]['caption']
    np.testing.assert_array_equal(decode(sample.images[0].image), scenes[number]['image'])
  assert seen == set(range(count))


@pytest.mark.parametrize('task', DRAWN)
def test_drawn_tasks_are_read_as_they_are_drawn(task, tmp_path):
  config = ShapesConfig(name=f'{task}-tiny', task=task, size=16, train=3, test=2, seed=4)
  builder = Shapes(config=config, data_dir=str(tmp_path))
  builder.download_and_prepare()
  for split, count in (('train', 3), ('test', 2)):
    source = open_source('tfds', str(builder.data_path), split=split)
    drawn = DrawnSource(task, Settings(((16, 16),)), split, seed=4)
    assert len(source) == count
    samples = {sample.id: sample for sample in (source[index] for index in range(count))}
    assert samples.keys() == {drawn[index].id for index in range(count)}
    for expected in (drawn[index] for index in range(count)):
      found = samples[expected.id]
      assert [(part.role, part.text, part.loss) for part in found.parts] == [
          (part.role, part.text, part.loss) for part in expected.parts]
      for image, other in zip(found.images, expected.images, strict=True):
        np.testing.assert_array_equal(decode(image.image), other.image)


def test_every_task_has_a_config_and_only_those_named_are_prepared(tmp_path, monkeypatch, capsys):
  assert {config.task for config in Shapes.BUILDER_CONFIGS} == {'', *DRAWN}
  few = [ShapesConfig(name=f'{task}-tiny', task=task, size=16, train=1, test=1)
         for task in ('edit', 'views', 'scene')]
  monkeypatch.setattr(Shapes, 'BUILDER_CONFIGS', few)
  main(str(tmp_path), ['views'])
  assert capsys.readouterr().out.endswith(f'\n{tmp_path}/shapes/views-tiny/1.0.0\n')
  assert [path.name for path in (tmp_path / 'shapes').glob('*-tiny')] == ['views-tiny']
  with pytest.raises(UserError, match='drawn tasks are scene'):
    main(str(tmp_path), ['viewss'])


@pytest.mark.slow  # 21,000 samples
def test_the_command(tmp_path):
  words = [sys.executable, '-m', 'jaxgen.data.shapes.tfds', str(tmp_path)]
  done = subprocess.run([*words, 'scene'], capture_output=True, text=True, check=True)
  source = open_source('tfds', done.stdout.split()[-1])
  assert len(source) == 20_000 and source[7].texts[0].text
  done = subprocess.run([*words, 'scenes'], capture_output=True, text=True)
  assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("task = 'scenes': drawn")


def test_reading_needs_no_tensorflow(prepared):
  code = ('import sys; from jaxgen.data.sources import open_source; '
          f'open_source("tfds", {prepared!r})[0]; print("tensorflow" in sys.modules)')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == 'False'
