"""Conditioning from a cache in place of the text towers."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.config import to_json
from jaxgen.config import validate
from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.conversion.pretrained import read_external
from jaxgen.core.errors import UserError
from jaxgen.finetuning.recipe import recipe
from jaxgen.sampling.load import load_published
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.frozen_groups import read_by_steps
from jaxgen.training.state import make_blueprint
from jaxgen.training.states import write_states
from tests.systems import tiny_pipelines
from tests.training.loaded import first_batches


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  """Two samples to a row, with paraphrases and droppings."""
  root = tmp_path_factory.mktemp('states')
  folder = tiny_pipelines.save_flux(root / 'flux')
  rng, lines = np.random.default_rng(0), []
  for index in range(5):
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(root / f'{index}.png')
    lines.append(json.dumps({'id': str(index), 'parts': [
        {'text': [f'a red circle {word}' for word in ('one', 'two')], 'role': 'user'},
        {'image': f'{index}.png', 'role': 'target'}]}))
  (root / 'samples.jsonl').write_text('\n'.join(lines))
  config = recipe(open_pipeline(folder).config, str(root / 'samples.jsonl'), rank=2, size=32,
                  steps=2)
  config.data.update(segments_per_row=2, visual_tokens=128, prompt_tokens=16, threads=2)
  config.data.dropout.update(all=0.3, text=0.1)
  return config


@pytest.fixture(scope='module')
def cached(config, tmp_path_factory):
  folder = tmp_path_factory.mktemp('cache') / 'states'
  write_states(config, str(folder), read_external=read_external)
  changed = copy.deepcopy(config)
  changed.data.states = str(folder)
  return changed


def test_every_segment_has_the_conditioning_that_the_towers_give(config, cached):
  system, run = make_system(config), load_published(config, read_external, {'denoiser': {}})
  condition = jax.jit(system.condition)
  for plain, read in zip(first_batches(config, 2), first_batches(cached, 2), strict=True):
    assert plain.ids == read.ids and not read.batch.towers and not read.batch.prompt.tokens.size
    wanted, found = condition(run.params, plain.batch), read.batch.conditioning
    used = plain.batch.meta.sample_ids >= 0
    assert used.any() and found.states.shape == wanted.states.shape
    np.testing.assert_array_equal(found.segments, wanted.segments * used.repeat(16, axis=1))
    seen = found.segments > 0
    np.testing.assert_allclose(found.states[seen], wanted.states[seen], atol=1e-5)
    np.testing.assert_array_equal(found.positions[seen], wanted.positions[seen])
    np.testing.assert_allclose(found.pooled[used], wanted.pooled[used], atol=1e-5)
    np.testing.assert_array_equal(found.guidance[used], wanted.guidance[used])


def test_steps_read_no_tower_and_towers_that_train_are_refused(cached):
  system = make_system(cached)
  blueprint = make_blueprint(cached, system, system.groups, make_mesh(cached.mesh))
  assert set(read_by_steps(cached, system, blueprint).frozen) == {'denoiser', 'autoencoder'}
  assert {'text_encoder', 'text_encoder_2'} < set(blueprint.frozen)
  trains = {path: 'text_encoder_2/' in path for path in blueprint.trains}
  with pytest.raises(UserError, match='stands for text_encoder, text_encoder_2, but text_encoder'):
    read_by_steps(cached, system, dataclasses.replace(blueprint, trains=trains))
  both = copy.deepcopy(cached)
  both.objective.next_token = 1.0
  with pytest.raises(UserError, match='takes the place of the language model'):
    validate(both)


def test_what_is_missing_or_stale(config, cached, tmp_path, capsys):
  """Two wordings, which all samples share, and the empty prompt are there."""
  file = tmp_path / 'config.json'
  file.write_text(to_json(config))
  words = ['data', 'cache', '--states', f'--config={file}', f'--out={cached.data.states}']
  assert cli.main(words) == 0
  assert '0 prompts written, 3 were there' in capsys.readouterr().out
  assert cli.main([*words, '--config.model.guidance=2']) == 1
  assert 'written with config.model.guidance = 1.0, and now it is 2.0' in capsys.readouterr().err
  longer = copy.deepcopy(cached)
  longer.data.pair_prompt = 'draw {caption}'
  with pytest.raises(UserError, match='the states of its prompt are missing; run `jaxgen data'):
    first_batches(longer, 1)
