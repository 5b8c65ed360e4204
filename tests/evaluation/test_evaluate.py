"""Evaluation of a workdir: what it writes, and that its numbers are the scorer's."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.shapes import geneval
from jaxgen.evaluation import evaluate as evaluation
from jaxgen.evaluation.shapes import captions


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, tiny_base, tiny_system):
  """Random weights where a run would have trained ones, evaluated with two images a task."""
  folder = str(tmp_path_factory.mktemp('runs') / 'run')
  config = tiny_base.copy_and_resolve_references()
  config.sampling.update(steps=2, guidance=1.0)
  rng = np.random.default_rng(0)
  params = trees.map_named(  # no zeros, unlike a fresh model's last layer
      lambda _, leaf: np.float32(rng.normal(0.0, 0.2, leaf.shape)), tiny_system.shapes())
  save_weights(folder, params, to_json(config))
  evaluation.evaluate(folder, prompts=2, images_per_prompt=1, untrained=True)
  return folder


def read(workdir: str, name: str):
  with open(f'{workdir}/{name}.json') as file:
    return json.load(file)


@pytest.mark.parametrize('name', ['evaluation', 'evaluation_untrained'])
def test_record(workdir, name):
  record = read(workdir, name)
  assert set(record['score']) == {*geneval.TASKS, 'overall'}
  assert record['images'] == 12 and record['prompts'] == 2 and record['seed'] == 0
  scenes = geneval.evaluation_prompts(2, 0)
  assert [(sample['task'], sample['caption']) for sample in record['samples']] == [
      (scene.task, scene.caption) for scene in scenes]
  verdicts = []
  for sample, scene in zip(record['samples'], scenes, strict=True):
    image = np.asarray(Image.open(f'{workdir}/{sample["file"]}'))
    assert image.shape == (16, 16, 3)
    assert sample['correct'] == captions.score(image, scene.request)
    verdicts.append((scene.task, [dict(correct=sample['correct'])]))
  assert record['score'] == evaluation.accuracies(verdicts)


def test_random_weights_are_other_weights(workdir):
  first, second = (np.asarray(Image.open(f'{workdir}/samples/{name}.png'))
                   for name in ('evaluation', 'evaluation_untrained'))
  assert first.shape == second.shape == (6 * 18 - 2, 2 * 18 - 2, 3)
  assert (first != second).any()


@pytest.mark.parametrize('options', [dict(prompts=0, images_per_prompt=1),
                                     dict(prompts=1, images_per_prompt=0)])
def test_counts_must_be_positive(options):
  with pytest.raises(UserError, match='= 0: use at least 1'):
    evaluation.evaluate('anywhere', **options)


def test_shown_samples_are_spread():
  assert evaluation._spread(list(range(3))) == [0, 1, 2]
  assert evaluation._spread(list(range(100, 116))) == list(range(100, 116, 2))
