"""Query-Kontext: states of words and kontext tokens, roles and positions, guidance, the merge."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.query_kontext import shapes
from jaxgen.core.errors import UserError
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.loader import make_loader
from jaxgen.sampling.request import make_request
from jaxgen.systems.registry import make_system

IMAGES = [np.full((16, 16, 3), level, np.uint8) for level in (60, 200)]


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  made = shapes.get_config('stage3')
  made.model.lora = {}
  made.data.update(tokenizer=tiny_tokenizer, prompt_tokens=200)
  made.train.rows = 4
  return made


@pytest.fixture(scope='module')
def system(config):
  return make_system(config)


@pytest.fixture(scope='module')
def params(system):
  return jax.jit(system.init)(jax.random.key(0))


def test_states_are_those_of_the_language_model_through_the_connector(config, system, params):
  """The learned tokens stand behind the prompt of every sample, for the model to fill (L049)."""
  loader = make_loader(config, system.layout)
  batch = next(loader).batch
  loader.close()
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
