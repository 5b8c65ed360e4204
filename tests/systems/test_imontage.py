"""iMontage: where its images stand, what guidance keeps, and what it refuses."""

import copy

import jax
import numpy as np
import pytest

from configs.imontage import shapes
from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.core.types import Batch
from jaxgen.core.types import Tower
from jaxgen.data.buckets import CANONICAL_BUCKETS
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.sources import open_source
from jaxgen.data.tasks import worded
from jaxgen.models.registry import section
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.operations.programs import Programs
from jaxgen.sampling.request import make_request
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step

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


@pytest.fixture(scope='module')
def coarse(config):
  """Tokens of 32 x 32 pixels, and as few layers as there can be: images of real sizes are cheap."""
  made = copy.deepcopy(config)
  channels = 3 * 32**2
  made.model.autoencoder = section('pixel', factor=16)
  made.model.text_encoder.update(width=16, layers=3, heads=2, kv_heads=1, mlp=16)
  made.model.text_encoder_2.update(width=16, heads=1, mlp=16)
  made.model.denoiser.update(in_channels=channels, out_channels=channels, cond_dim=16,
                             pooled_dim=16, width=16, heads=1, double_blocks=1, single_blocks=1,
                             axes_dims=(4, 6, 6))
  made.data.update(buckets='canonical', segments_per_row=4, visual_tokens=2048, prompt_tokens=24)
  made.data.sources.edits = source('shapes', 'edit', path='edit')
  made.optimizer.name = 'adamw'
  made.train.rows = 1
  return made


COUNTS = ((0, 1), (1, 1), (2, 2), (3, 3), (4, 1), (0, 4), (4, 4))  # of inputs and outputs


def examples(config, system):
  """An image of each of the 37 sizes; then several inputs and outputs of small ones."""
  wanted = [(size, 0, 1) for size in CANONICAL_BUCKETS]
  wanted += [(size, *counts) for size, counts in zip(CANONICAL_BUCKETS, COUNTS)]
  maker = ExampleMaker.of(config, system.layout)
  for size, inputs, outputs in wanted:
    given = [np.zeros((*size[::-1], 3), np.uint8)] * inputs  # inputs have sizes of their own
    yield maker(make_request(config, 'red', reference=given, outputs=outputs, size=size).sample)


def test_one_program_trains_on_all_sizes_and_numbers_of_images(coarse):
  system, objectives = make_system(coarse), make_objectives(coarse)
  mesh = make_mesh(coarse.mesh, jax.devices()[:1])
  rows, shape = partition.row_sharding(mesh, 1, 1), RowShape.of(coarse.data, system.layout)
  blueprint = make_blueprint(coarse, system, needed_groups(system, objectives), mesh)
  step = compile_step(make_train_step(coarse, system, objectives, blueprint.optimizer), blueprint,
                      rows)
  packed, sizes, counts = [Row(shape)], set(), set()
  for example in examples(coarse, system):
    if not packed[-1].add(example):
      packed.append(Row(shape))
      assert packed[-1].add(example), shape.refusal(example)
    drawn = [image.size for image in example.images if image.is_target]
    sizes.update(drawn)
    counts.add((len(example.images) - len(drawn), len(drawn)))
  assert sizes == set(CANONICAL_BUCKETS)
  assert counts == set(COUNTS)

  state, frozen = init_state(coarse, system, blueprint, {})
  made = []
  for row in packed:
    batch = partition.to_global(pack([row.examples], shape).batch, rows, 1)
    with Programs() as programs:
      state, metrics = step(state, frozen, batch)
    made.append(programs.count)
  assert made == [1] + [0] * (len(packed) - 1)
  assert np.isfinite(float(metrics['loss'])) and int(metrics['skipped']) == 0
