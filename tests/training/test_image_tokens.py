"""Image tokens from a cache in place of a frozen vision tower: the same run, and refusals."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.duetgen import shapes as duetgen
from configs.query_kontext import shapes as query_kontext
from jaxgen.config import source
from jaxgen.config import validate
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.image_tokens import ImageTokens
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems import parts
from jaxgen.systems.registry import make_system
from jaxgen.training import caching
from jaxgen.training.frozen_groups import read_by_steps
from jaxgen.training.image_tokens import write_image_tokens
from jaxgen.training.loop import train
from jaxgen.training.state import init_params
from jaxgen.training.state import make_blueprint
from tests.systems.small import shrink_duetgen
from tests.systems.small import shrink_query_kontext
from tests.training.launched import metrics_of
from tests.training.loaded import first_batches

SIZES = [(16, 16), (8, 24), (40, 16), (24, 32)]  # (height, width) in pixels
RECORDS = 8


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Files of several sizes: a target of two references, and dialogues that draw two images."""
  root, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
  subjects, dialogues = [], []
  for index in range(RECORDS):
    names = [f'{index}_{number}.png' for number in range(3)]
    for number, name in enumerate(names):
      pixels = rng.integers(0, 256, (*SIZES[(index + number) % len(SIZES)], 3), np.uint8)
      Image.fromarray(pixels).save(root / name)
    first, second, last = ({'image': name, 'role': role} for name, role in zip(
        names, ('reference', 'reference', 'target')))
    subjects.append({'id': f'subject {index}', 'parts': [
        first, second, {'text': 'a red circle', 'role': 'user'}, last]})
    dialogues.append({'id': f'dialogue {index}', 'parts': [
        first, {'text': 'a blue circle', 'role': 'user'}, {'text': 'a', 'role': 'assistant'},
        dict(second, role='target'), {'text': 'a', 'role': 'assistant'}, last]})
  for name, records in (('subjects', subjects), ('dialogues', dialogues)):
    (root / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, records)))
  return root


@pytest.fixture(scope='module')
def kontext(tiny_tokenizer, photos):
  """The first stage of Query-Kontext: the language model's adapter trains, its tower does not."""
  config = query_kontext.get_config('stage1')
  adapter = copy.deepcopy(config.model.lora.mllm)
  shrink_query_kontext(config)
  config.model.lora.mllm = adapter
  config.data.sources = {
      'subjects': source('jsonl', 'reference', path=str(photos / 'subjects.jsonl')),
      'again': source('folder', 'reconstruction', path=str(photos))}
  config.data.update(tokenizer=tiny_tokenizer, patches=48)
  config.data.dropout.update(all=0.1, text=0.1, vision=0.1)
  config.train.update(rows=8, steps=3, log_every=1, checkpoint_every=3)
  return config


@pytest.fixture(scope='module')
def dialogues(tiny_tokenizer, photos):
  """The second stage of DuetGen."""
  config = duetgen.get_config('align')
  shrink_duetgen(config.model)
  config.data.sources = {'all': source('jsonl', 'dialogue', path=str(photos / 'dialogues.jsonl'))}
  config.data.update(tokenizer=tiny_tokenizer, segments_per_row=2, look_ahead=2)
  config.train.rows = 8
  return config


@pytest.fixture(scope='module')
def kontext_tokens(kontext, tmp_path_factory):
  folder = tmp_path_factory.mktemp('kontext') / 'tokens'
  write_image_tokens(kontext, str(folder), every=7)
  return folder


def with_tokens(config, folder):
  changed = copy.deepcopy(config)
  changed.data.image_tokens = str(folder)
  return changed


def blueprint_of(config, system):
  groups = needed_groups(system, make_objectives(config))
  return make_blueprint(config, system, groups, make_mesh(config.mesh))


@pytest.mark.slow
def test_a_run_with_the_cache_equals_the_run_without(kontext, kontext_tokens, tmp_path, capsys):
  """But for the order of sums, as images stand at other places of longer rows in the tower."""
  assert len(list(kontext_tokens.glob('tokens-*.arrayrecord'))) == 4  # 24 images, 7 to a file
  losses = []
  for name, config in (('without', kontext), ('with', with_tokens(kontext, kontext_tokens))):
    train(config, str(tmp_path / name))
    losses.append([line['loss'] for line in metrics_of(tmp_path / name, 'loss')])
  assert len(set(losses[0])) == kontext.train.steps
  np.testing.assert_allclose(losses[1], losses[0], rtol=2e-6)
  capsys.readouterr()
  write_image_tokens(kontext, str(kontext_tokens))
  assert f'0 entries written, {3 * RECORDS} were there' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['kontext', 'dialogues'])
def test_the_denoiser_is_told_the_same_without_the_tower(name, request, tmp_path):
  """Queries behind two references beside an adapter that trains; whole dialogues."""
  config = request.getfixturevalue(name)
  write_image_tokens(config, str(tmp_path))
  faster, system = with_tokens(config, tmp_path), make_system(config)
  blueprint = blueprint_of(config, system)
  whole = trees.merge(blueprint.state.params, blueprint.stored)
  params = init_params(config, system, {
      group: whole[group] for group in system.reads['condition']}, {})
  trained, stored = trees.partition(params, blueprint.trains)
  read, frozen = caching.for_steps(faster, system, blueprint, stored)
  assert set(frozen['mllm']) == set(read.frozen['mllm']) == {'text'}
  assert set(stored['mllm']) == {'text', 'vision'}
  condition = jax.jit(system.condition)
  for plain, known in zip(first_batches(config, 2), first_batches(faster, 2), strict=True):
    assert plain.ids == known.ids and (plain.batch.prompt.patch_images.max(axis=1) > 1).any()
    wanted = condition(params, plain.batch)
    found = condition(trees.merge(trained, frozen), known.batch)
    np.testing.assert_array_equal(found.segments, wanted.segments)
    shown = wanted.segments > 0
    np.testing.assert_allclose(found.states[shown], wanted.states[shown], atol=1e-5)


def test_tokens_of_self_conditioning_images_are_masked_as_without(tiny_config, photos, tmp_path):
  """In bfloat16, as which entries are kept; squares go through the tower one by one (L089)."""
  tiny_config.model.compute_dtype = 'bfloat16'
  tiny_config.data.sources = {'alone': source('folder', 'image', path=str(photos))}
  write_image_tokens(tiny_config, str(tmp_path))
  assert ImageTokens(str(tmp_path)).width == 32
  system = make_system(tiny_config)
  stored = init_params(tiny_config, system, {
      'mllm': blueprint_of(tiny_config, system).stored['mllm']}, {})
  embed = jax.jit(lambda batch: parts.embed(system.models['mllm'], stored['mllm'], batch, 0.5,
                                            jax.random.key(1)))
  plain, known = (first_batches(config, 1)[0].batch for config in (
      tiny_config, with_tokens(tiny_config, tmp_path)))
  assert known.prompt.patches.shape == (8, 1, 32) and plain.prompt.patches.shape == (8, 4, 48)
  found, wanted = embed(known), embed(plain)
  assert found.dtype == wanted.dtype == jnp.bfloat16
  hidden = (plain.prompt.image_index >= 0) & ~wanted.any(axis=-1)
  assert 0 < hidden.sum() < (plain.prompt.image_index >= 0).sum()
  np.testing.assert_array_equal(found, wanted)


def test_a_tower_that_trains_is_refused(kontext, kontext_tokens, tmp_path):
  adapted = copy.deepcopy(kontext)
  adapted.model.lora.mllm.modules = r'mllm/.*/layers/.*'
  with pytest.raises(UserError, match=r'--out = .*stands for the vision tower, but mllm/vision/.*'
                                      r'lora/a trains; leave it out, or freeze'):
    write_image_tokens(adapted, str(tmp_path / 'none'))
  adapted = with_tokens(adapted, kontext_tokens)
  system = make_system(adapted)
  with pytest.raises(UserError, match='config.data.image_tokens = .*but mllm/vision/'):
    read_by_steps(adapted, system, blueprint_of(adapted, system))
  both = with_tokens(kontext, kontext_tokens)
  both.data.states = 'somewhere'
  with pytest.raises(UserError, match='image_tokens = .*is not read beside data.states'):
    validate(both)


def test_what_is_stale_or_missing_or_something_else(kontext, kontext_tokens, tmp_path):
  changed = copy.deepcopy(kontext)
  changed.model.mllm.vision.window = 8
  with pytest.raises(UserError, match='--out = .*written with config.model.mllm.vision.window = 16,'
                                      ' and now it is 8; write another one with `jaxgen data cache '
                                      '--image-tokens'):
    write_image_tokens(changed, str(kontext_tokens))
  with pytest.raises(UserError, match="image_tokens = '.*': no cache there; write one with .* --image"):
    first_batches(with_tokens(kontext, tmp_path))
  (tmp_path / 'info.json').write_text('{"version": 2}')
  with pytest.raises(UserError, match="a cache of something else .*write one with `jaxgen data "
                                      'cache --image-tokens'):
    first_batches(with_tokens(kontext, tmp_path))
  larger = with_tokens(kontext, kontext_tokens)
  larger.data.vision_pixels = (64, 576)
  with pytest.raises(UserError, match=r'image tokens of its \w+ image at \d+ x \d+ are missing; run '
                                      '`jaxgen data cache --image-tokens'):
    first_batches(larger)
