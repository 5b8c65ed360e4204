"""The run that is shipped: its size, that it draws what it is asked for, and that it is a run."""

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.checkpoints import packed
from jaxgen.checkpoints.weights import load_weights
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import base_config
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.sampling.hello import SHIPPED
from jaxgen.sampling.hello import SIDE

PROMPT = 'a red circle at the top left, a blue square at the bottom right, on a sand background'


def test_hello_draws_a_scene_with_the_colours_that_it_is_asked_for(tmp_path, capsys):
  assert SHIPPED.stat().length <= 5_000_000
  assert cli.main(['hello', f'--prompt={PROMPT}', f'--out={tmp_path}']) == 0
  said = capsys.readouterr().out
  assert f'{tmp_path}/hello.png' in said and f'1. {PROMPT}' in said
  image = np.asarray(Image.open(tmp_path / 'hello.png'), np.float64)[:SIDE]
  (red, _), (_, blue) = (np.split(half, 2, axis=1) for half in np.split(image, 2, axis=0))
  centre = slice(SIDE // 8, 3 * SIDE // 8)
  red, blue = (corner[centre, centre].mean((0, 1)) for corner in (red, blue))
  assert red.argmax() == 0 and red[0] > 1.5 * red[1:].max()
  assert blue.argmax() == 2 and blue[2] > 1.5 * blue[:2].max()


def test_packed_weights_are_within_half_a_step_and_any_run_can_be_packed(tmp_path):
  rng = np.random.default_rng(0)
  shapes = {'stacked': (3, 16, 4, 8), 'matrix': (64, 32), 'bias': (64,), 'small': (4, 4)}
  params = {'denoiser': {name: rng.normal(0, 0.1, shape).astype(np.float32)
                         for name, shape in shapes.items()}, 'mllm': {}}
  params['denoiser']['matrix'][:, 0] = 0  # no step at all
  save_weights(str(tmp_path / 'run'), {'denoiser': params['denoiser']}, to_json(base_config()))
  (tmp_path / 'run/tokenizer').mkdir()
  (tmp_path / 'run/tokenizer/tokenizer.json').write_text('{}')
  file = tmp_path / 'run.zip'
  assert packed.pack(str(tmp_path / 'run'), ['denoiser', 'mllm'], file, {'what': 'a run'}) == (
      file.stat().st_size)
  assert packed.read_about(file) == {'what': 'a run'}
  packed.unpack(file, str(tmp_path / 'again'))
  found, config = load_weights(str(tmp_path / 'again'), ['denoiser'])
  assert config == to_json(base_config())
  assert (tmp_path / 'again/tokenizer/tokenizer.json').read_text() == '{}'
  for name, leaf in trees.flatten(found).items():
    ours = trees.flatten(params)[name]
    largest = np.abs(ours).max(tuple(range(ours.ndim > 2, ours.ndim - 1)), keepdims=True)
    step = largest / 127 if ours.size >= 1024 else 0.002 * np.abs(ours)
    assert leaf.dtype == np.float32 and np.all(np.abs(leaf - ours) <= 0.51 * step + 1e-6), name
  file.write_bytes(file.read_bytes()[:-40])
  with pytest.raises(UserError, match='damaged'):
    packed.read_about(file)
