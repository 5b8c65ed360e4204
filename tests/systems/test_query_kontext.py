"""Query-Kontext: what the denoiser is told, roles and positions, guidance, the merge, bad input."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.query_kontext import shapes
from configs.query_kontext import stage2
from jaxgen import cli
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.loader import make_loader
from jaxgen.data.positions import SCHEMES
from jaxgen.models.layers import lora
from jaxgen.sampling.request import make_request
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.init_from import load_groups
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint

IMAGES = [np.full((16, 16, 3), level, np.uint8) for level in (60, 200)]


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  made = shapes.get_config('stage3')
  made.model.lora = {}
  made.data.update(tokenizer=tiny_tokenizer, prompt_tokens=200, scheme='shifted',
                   segments_per_row=1)
  made.train.rows = 4
  return made


@pytest.fixture(scope='module')
def system(config):
  return make_system(config)


@pytest.fixture(scope='module')
def params(system):
  return jax.jit(system.init)(jax.random.key(0))


def loaded(config, system):
  """A batch of the config's sources."""
  loader = make_loader(config, system.layout)
  try:
    return next(loader).batch
  finally:
    loader.close()


def test_states_are_those_of_the_language_model_through_the_connector(config, system, params):
  """The learned tokens stand behind the prompt of every sample, for the model to fill (L049)."""
  batch = loaded(config, system)
  prompt = batch.prompt
  told = jax.jit(system.condition)(params, batch)

  mllm, queries = system.models['mllm'], params['bridge']['queries']  # [Q, D]
  embedded = mllm.apply({'params': params['mllm']}, prompt, method='embed_prompt')
  index = np.maximum(prompt.query_index, 0)
  embedded = jnp.where((prompt.query_index >= 0)[..., None], queries[index], embedded)
  states = mllm.apply({'params': params['mllm']}, embedded, prompt.positions, prompt.segments,
                      method='decode')
  up, down = params['connector']['up'], params['connector']['down']
  expected = jax.nn.gelu(states @ up['kernel'] + up['bias'], approximate=False
                         ) @ down['kernel'] + down['bias']
  present = np.asarray(prompt.segments) > 0
  np.testing.assert_allclose(np.asarray(told.states)[present], np.asarray(expected)[present],
                             atol=2e-5)
  np.testing.assert_array_equal(told.segments, prompt.segments)
  assert (np.sum(prompt.query_index >= 0, axis=1) == shapes.QUERIES).all()


@pytest.mark.parametrize('shown, words, queries', [
    ('all', True, True), ('text', True, False), ('queries', False, True)])
def test_the_config_says_which_states_are_shown(config, shown, words, queries):
  """The three bridges of Table 9 (L056, L081)."""
  changed = copy.deepcopy(config)
  changed.data.shown = shown
  maker = ExampleMaker.of(changed, make_system(changed).layout)
  prompt = maker(make_request(changed, 'a red circle').sample).prompt
  is_query = prompt.query_index >= 0
  assert prompt.shown[is_query].all() == queries and prompt.shown[~is_query].all() == words
  assert prompt.shown[is_query].any() == queries and prompt.shown[~is_query].any() == words


def test_the_role_of_an_image_is_its_place(config, system):
  """A source lies mirrored before the target, a reference behind it on the diagonal (L057-L059)."""
  maker = ExampleMaker.of(config, system.layout)

  def places(**given):
    images = maker(make_request(config, 'go on', **given).sample).images
    return [(image.is_target, image.positions[:, 1:].min(), image.positions[:, 1:].max())
            for image in images]

  assert places(source=IMAGES[:1]) == [(False, -3, 0), (True, 0, 3)]
  assert places(reference=IMAGES) == [(True, 0, 3), (False, 4, 7), (False, 8, 11)]


def test_images_and_words_are_guided_apart(config, system):
  request = make_request(config, 'make it blue', source=IMAGES[:1])
  branches = system.branches(request.sample, {'text': 4.0, 'image': 1.5})
  assert [weight for weight, _ in branches] == [4.0, -2.5, -0.5]
  assert [[part.role for part in sample.images] for _, sample in branches] == [
      ['source', 'target'], ['source', 'target'], ['target']]
  assert [bool(sample.texts) for _, sample in branches] == [True, False, False]
  alone = system.branches(make_request(config, 'a cat').sample, {'text': 4.0, 'image': 1.5})
  assert [weight for weight, _ in alone] == [4.0, -3.0]


@pytest.mark.parametrize('field, value, said', [
    ('model.bridge.width', 64, r'config.model.bridge.width = 64: must equal .*mllm.text.width'),
    ('model.connector.width', 64, r'config.model.connector.width = 64: must equal .*mllm.text'),
    ('model.connector.out_width', 64, r'model.denoiser.cond_dim = 128: must equal .*out_width'),
    ('model.denoiser.in_channels', 64, r'in_channels = 64: must equal the channels of a latent'),
    ('data.image_size', 18, r'config.data.image_size = 18: must be a multiple of 4')])
def test_sizes_that_do_not_fit_each_other_are_refused(config, field, value, said):
  changed = copy.deepcopy(config)
  section, name = field.rsplit('.', 1)
  node = changed
  for key in section.split('.'):
    node = node[key]
  node[name] = value
  with pytest.raises(UserError, match=said):
    make_system(changed)


def test_many_targets_need_another_scheme(config, system):
  request = make_request(config, 'two of them', outputs=2)
  with pytest.raises(UserError, match='at most one source and exactly one target'):
    ExampleMaker.of(config, system.layout)(request.sample)


@pytest.mark.parametrize('scheme', sorted(SCHEMES))
@pytest.mark.parametrize('size', [(8, 8), (40, 24)])
def test_a_source_of_any_size_lies_as_one_of_the_targets_own(config, system, scheme, size):
  """It is brought to the size of the target, as for out-painting (L084), whatever the scheme."""
  changed = copy.deepcopy(config)
  changed.data.scheme = scheme
  maker = ExampleMaker.of(changed, make_system(changed).layout)

  def given(pixels):
    request = make_request(changed, 'go on', source=[pixels], size=(16, 24))
    source, = (image for image in maker(request.sample).images if not image.is_target)
    return source

  own, fitting = (given(np.zeros((*each, 3), np.uint8)) for each in (size, (16, 24)))
  assert own.pixels.shape == (16, 24, 3)
  np.testing.assert_array_equal(own.positions[:, 1:], fitting.positions[:, 1:])


@pytest.fixture(scope='module')
def folder(config, params, tmp_path_factory):
  """Weights of a stage-3 run without adapter, and two small images."""
  made = tmp_path_factory.mktemp('run')
  held = copy.deepcopy(config)
  held.sampling.update(steps=1, guidance=2.0, image_guidance=1.5)
  save_weights(str(made / 'run'), params, to_json(held))
  for name, pixels in zip('ab', IMAGES):
    Image.fromarray(pixels[:8]).save(made / f'{name}.png')
  return made


@pytest.mark.parametrize('prompt, images, task', [
    ('红色圆形在左上', (), 'pair'), ('把圆形变成蓝色', ('source=a',), 'edit'),
    ('把它画在右下，背景是白色', ('reference=a',), 'reference'),
    ('图1的物体在图2的物体的左边', ('reference=a', 'reference=b'), 'reference')])
def test_every_task_is_drawn_from_chinese_words(folder, prompt, images, task):
  """At the size that is asked for, from smaller images."""
  flags = [f'--{image.replace("=", f"={folder}/")}.png' for image in images]
  out = folder / f'out_{task}_{len(images)}'
  assert cli.main(['sample', f'--workdir={folder}/run', f'--prompt={prompt}', f'--out={out}',
                   '--size=16x24', *flags]) == 0
  found, = json.loads((out / 'results.json').read_text())
  assert (found['task'], found['sizes']) == (task, [[16, 24]])
  assert [part['role'] for part in found['parts']] == [
      *(image.partition('=')[0] for image in images), 'user']
  assert found['parts'][-1]['text'] == prompt
  assert Image.open(out / found['files'][0]).size == (24, 16)


@pytest.mark.parametrize('flags, said', [
    (['--reference=a.png'] * 3, "prompt 'x': references = 3: more than config.data.max_references"
     ' = 2; give fewer or raise the limit'),
    (['--task=edit'], "prompt 'x' = ['target']: task edit needs an image of role source"),
    (['--task=edit', '--reference=a.png'],
     "prompt 'x' = ['reference', 'target']: task edit needs an image of role source"),
    (['--source=a.png'] * 2, 'at most one source and exactly one target')])
def test_images_that_make_no_request_end_in_one_line(folder, flags, said, tmp_path, capsys):
  flags = [flag.replace('a.png', f'{folder}/a.png') for flag in flags]
  assert cli.main(['sample', f'--workdir={folder}/run', '--prompt=x', f'--out={tmp_path}/out',
                   *flags]) == 1
  error = capsys.readouterr().err
  assert said in error and error.count('\n') == 1


@pytest.fixture(scope='module')
def stage1(config, params, tmp_path_factory):
  """``(config of stage 2, system and parameters of stage 1, folder of both)``.

  ``adapted/`` in the folder is what stage 1 leaves, ``plain/`` the same without its adapter.
  """
  before = shapes.get_config('stage1')
  before.data = config.data
  before.model.denoiser = config.model.denoiser
  system = make_system(before)
  rng = np.random.default_rng(0)
  adapters = {path: (0.1 * rng.normal(size=leaf.shape) if leaf.ndim > 1 else
                     np.full(leaf.shape, 32.0)).astype(np.float32)
              for path, leaf in trees.flatten(system.shapes(['mllm'])).items()
              if lora.is_adapter(path)}
  adapted = trees.merge(params, trees.unflatten(adapters))
  root = tmp_path_factory.mktemp('stage1')
  for name, held in (('adapted', adapted), ('plain', params)):
    save_weights(str(root / name), held, to_json(before))
  after = copy.deepcopy(config)
  after.trainable = stage2.get_config().trainable
  after.init_from.changes = stage2.get_config().init_from.changes
  return after, system, adapted, root


def started(config, folder):
  """Parameters that stage 2 begins with."""
  config = copy.deepcopy(config)
  config.init_from.mllm = config.init_from.bridge = config.init_from.connector = str(folder)
  system = make_system(config)
  blueprint = make_blueprint(config, system, system.groups, make_mesh(config.mesh))
  state, frozen = init_state(config, system, blueprint, load_groups(config, blueprint)[0])
  return jax.device_get(trees.merge(state.params, frozen))


def test_stage_2_begins_with_the_states_of_stage_1(stage1, system, params):
  """The adapter of Qwen2.5-VL is merged into its kernels (L061)."""
  config, before, adapted, root = stage1
  after = started(config, root / 'adapted')
  assert not any(map(lora.is_adapter, trees.flatten(after)))
  batch = loaded(config, system)
  expected, ours, without = (
      np.asarray(jax.jit(each.condition)(held, batch).states)
      for each, held in ((before, adapted), (system, after), (system, params)))
  present = np.asarray(batch.prompt.segments) > 0
  assert np.abs(ours - expected)[present].max() < 1e-5
  assert np.abs(without - expected)[present].max() > 0.1


def test_stage_2_refuses_a_run_without_the_adapter_of_stage_1(stage1):
  config, _, _, root = stage1
  with pytest.raises(UserError) as caught:
    started(config, root / 'plain')
  assert str(caught.value) == (
      f"config.init_from.changes = 'mllm/.*/lora/.*': there is no such adapter to merge in "
      f'{root}/plain; start from the run that trained it, or remove the rule')
