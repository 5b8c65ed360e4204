"""The TFDS builder of ``shapes``: the scenes it stores are the scenes that are drawn."""

import subprocess
import sys

import numpy as np
import pytest

from jaxgen.data.decode import decode
from jaxgen.data.shapes.geneval import ShapesSource
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


def test_reading_needs_no_tensorflow(prepared):
  code = ('import sys; from jaxgen.data.sources import open_source; '
          f'open_source("tfds", {prepared!r})[0]; print("tensorflow" in sys.modules)')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == 'False'
