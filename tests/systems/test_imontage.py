"""iMontage: where its images stand, what guidance keeps, and what it refuses."""

import jax
import numpy as np
import pytest

from configs.imontage import shapes
from jaxgen.core.errors import UserError
from jaxgen.core.types import Batch
from jaxgen.core.types import Tower
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sources import open_source
from jaxgen.data.tasks import worded
from jaxgen.sampling.request import make_request
from jaxgen.systems.registry import make_system

IMAGE = np.full((16, 16, 3), 200, np.uint8)


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  made = shapes.tiny()
  for group in ('text_encoder', 'text_encoder_2'):
    made.data.tower_tokenizers[group] = tiny_tokenizer
  made.data.prompt_tokens = 256
  made.model.text_encoder_2.positions = 256
  return made


@pytest.fixture(scope='module')
def system(config):
  return make_system(config)


def test_images_take_the_released_time_indices(config, system):
  maker = ExampleMaker.of(config, system.layout)
  source = open_source('shapes', 'storyboard', size=16)
  seen = set()
  for index in range(12):
    sample = worded(source[index], 'many_to_many', config.data)
    images = maker(sample).images
    times = [set(image.positions[:, 0].tolist()) for image in images]
    given = sum(not image.is_target for image in images)
    drawn = len(images) - given
    assert times == [{time} for time in (*(0, 2, 4, 7)[:given], *(24, 26, 28, 31)[:drawn])]
    for image in images:  # each has its own (h, w)
      assert image.positions[:, 1:].tolist() == [[row, column] for row in range(4)
                                                 for column in range(4)]
    seen.add((given, drawn))
  assert len(seen) > 3


def test_guidance_keeps_the_references(config, system):
  request = make_request(config, 'turn left', source=[IMAGE], outputs=3)
  (scale, told), (rest, untold) = system.branches(request.sample, {'text': 6.0})
  assert (scale, rest) == (6.0, -5.0) and told == request.sample
  assert [part.role for part in untold.images] == ['source'] + ['target'] * 3
  assert not any(part.text for part in untold.texts)
  assert system.branches(request.sample, {'text': 1.0}) == [(1.0, request.sample)]


def test_the_denoiser_is_told_states_a_pooled_vector_and_a_guidance_scale(config, system):
  ids, flags, places = (jax.ShapeDtypeStruct(shape, kind) for shape, kind in (
      ((2, 3, 256), np.int32), ((2, 3, 256), bool), ((2, 3, 256, 3), np.int32)))
  towers = dict.fromkeys(('text_encoder', 'text_encoder_2'), Tower(ids, flags, flags, places))
  batch = Batch(None, None, None, towers)
  found = jax.eval_shape(system.condition, system.shapes(list(towers)), batch)
  assert found.states.shape == (2, 3 * 256, 128)
  assert found.pooled.shape == (2, 3, 64) and found.guidance.shape == (2, 3)


@pytest.mark.parametrize('images, outputs, said', [
    (9, 1, 'input images = 9: the scheme marginal has 8'),
    (1, 9, 'output images = 9: the scheme marginal has 8')])
def test_more_images_than_time_indices_are_refused(config, system, images, outputs, said):
  request = make_request(config, 'a story', reference=[IMAGE] * images, outputs=outputs)
  with pytest.raises(UserError, match=said):
    ExampleMaker.of(config, system.layout)(request.sample)
