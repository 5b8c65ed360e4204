"""The worked diff of docs/tutorials/adding_a_system.md: its code is run as it stands there."""

import pathlib
import re

import numpy as np

from jaxgen.sampling.load import load_run
from jaxgen.systems import registry
from jaxgen.training.loop import train
from tests.training.launched import metrics_of

PAGE = pathlib.Path(__file__).parents[2] / 'docs/tutorials/adding_a_system.md'


def test_the_system_of_the_page_trains_and_draws(tiny_tokenizer, tmp_path, monkeypatch):
  system, config = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  names: dict = {'__name__': 'text_to_image'}
  exec(system, names)  # pylint: disable=exec-used
  exec(config, names)  # pylint: disable=exec-used
  monkeypatch.setitem(registry.SYSTEMS, 'text_to_image', names['TextToImage'])
  made = names['get_config'](tiny_tokenizer)
  made.train.update(steps=2, checkpoint_every=2, rows=8)
  made.sampling.update(steps=2)
  assert train(made, str(tmp_path / 'run'))
  assert all(np.isfinite(line['loss']) for line in metrics_of(tmp_path / 'run', 'loss'))
  images = load_run(str(tmp_path / 'run')).generate(['a red circle', 'a cross'], seed=0)
  assert images.shape == (2, 16, 16, 3) and not np.array_equal(*images)
