"""The fit of a run to its own samples: the images it compares with, the control."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import source
from jaxgen.config import to_json
from jaxgen.core.errors import UserError
from jaxgen.data.shapes.geneval import ShapesSource
from jaxgen.evaluation.fit import evaluate_fit
from jaxgen.evaluation.pixels import psnr
from jaxgen.evaluation.pixels import ssim


def _run(folder, config, system):
  rng = np.random.default_rng(0)
  params = {group: _random(tree, rng) for group, tree in system.shapes().items()}
  save_weights(folder, params, to_json(config))
  return folder


def _random(tree, rng):
  return {name: _random(leaf, rng) if isinstance(leaf, dict)
          else np.float32(rng.normal(0.0, 0.1, leaf.shape)) for name, leaf in tree.items()}


def test_fit_compares_with_the_images_that_training_saw(tmp_path, tiny_config, tiny_system):
  tiny_config.sampling.update(steps=2, guidance=1.0)
  folder = _run(str(tmp_path / 'run'), tiny_config, tiny_system)
  table = evaluate_fit(folder, 3)
  assert table['images'] == 3 and table['psnr_min'] <= table['psnr'] < 20  # nothing was trained
  record = json.loads((tmp_path / 'run' / 'fit.json').read_text())
  source = ShapesSource('train', 16, tiny_config.seed)
  assert record['captions'] == [source[index]['caption'] for index in range(3)]
  grid = np.asarray(Image.open(tmp_path / 'run' / 'samples' / 'fit.png'))
  for index in range(3):
    np.testing.assert_array_equal(
        grid[:16, 18 * index:18 * index + 16], source[index]['image'])
  drawn = [grid[18:34, 18 * index:18 * index + 16] for index in range(3)]
  values = [psnr(image, source[index]['image']) for index, image in enumerate(drawn)]
  assert np.mean(values) == pytest.approx(table['psnr'])
  similar = [ssim(image, source[index]['image']) for index, image in enumerate(drawn)]
  assert np.mean(similar) == pytest.approx(table['ssim'])


def test_the_control_of_references_is_drawn_with_those_of_the_next_sample(
    tmp_path, tiny_config, tiny_system):
  """With a language model that is all noise, other images give other drawings of the same text."""
  for subject in ('bag', 'cat', 'dog', 'hat'):
    for number in (1, 2):
      level = 30 * 'bcdh'.index(subject[0]) + number
      pixels = np.full((20, 20, 3), level, np.uint8)
      Image.fromarray(pixels).save(tmp_path / f'{subject}_{number}.png')
  tiny_config.data.sources = {'subjects': source('subjects', 'reference', path=str(tmp_path))}
  tiny_config.data.update(prompt_tokens=64, patches=4)
  tiny_config.sampling.update(steps=2, guidance=1.0)
  table = evaluate_fit(_run(str(tmp_path / 'run'), tiny_config, tiny_system), 3)
  assert table['images'] == 3
  grid = np.asarray(Image.open(tmp_path / 'run' / 'samples' / 'fit.png'))
  assert grid.shape[0] == 3 * 18 - 2  # the denoiser is given no image here
  targets, drawn, control = (
      [grid[top:top + 16, 18 * index:18 * index + 16] for index in range(3)]
      for top in (0, 18, 36))
  assert [int(image.mean()) for image in targets] == [2, 32, 62]  # one pair of each subject
  assert any((image != other).any() for image, other in zip(drawn, control))
  for name, images in (('psnr', drawn), ('psnr_shuffled', control)):
    assert table[name] == pytest.approx(
        np.mean([psnr(image, target) for image, target in zip(images, targets)]))


def test_pairs_that_cannot_be_read_are_left_out(tmp_path, tiny_config, tiny_system):
  photos = tmp_path / 'photos'
  photos.mkdir()
  for subject in ('bag', 'cat', 'dog'):
    for number in (1, 2):
      Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(
          photos / f'{subject}_{number}.png')
  (photos / 'cat_1.png').write_bytes((photos / 'cat_1.png').read_bytes()[:40])
  tiny_config.data.sources = {'subjects': source('subjects', 'reference', path=str(photos))}
  tiny_config.data.update(prompt_tokens=64, patches=4)
  tiny_config.sampling.update(steps=1, guidance=1.0)
  assert evaluate_fit(_run(str(tmp_path / 'run'), tiny_config, tiny_system), 3)['images'] == 2


def test_a_run_with_nothing_to_draw_again_cannot_be_fitted(tmp_path, tiny_config, tiny_system):
  with tiny_config.unlocked():
    del tiny_config.data.sources.pair
  with pytest.raises(UserError, match='no source of task pair, edit, transformation or reference'):
    evaluate_fit(_run(str(tmp_path / 'run'), tiny_config, tiny_system), 3)
