"""One train-step program serves every size and number of images of iMontage."""

import jax
import numpy as np
import pytest

from configs.imontage import shapes
from jaxgen.config import source
from jaxgen.data.buckets import CANONICAL_BUCKETS
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
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


@pytest.fixture(scope='module')
def coarse(tiny_tokenizer):
  """Tokens of 32 x 32 pixels, and as few layers as there can be: images of real sizes are cheap."""
  made = shapes.tiny()
  for group in ('text_encoder', 'text_encoder_2'):
    made.data.tower_tokenizers[group] = tiny_tokenizer
  channels = 3 * 32**2
  made.model.autoencoder = section('pixel', factor=16)
  made.model.text_encoder.update(width=16, layers=3, heads=2, kv_heads=1, mlp=16)
  made.model.text_encoder_2.update(width=16, heads=1, mlp=16)
  made.model.denoiser.update(in_channels=channels, out_channels=channels, cond_dim=16,
                             pooled_dim=16, width=16, heads=1, double_blocks=1, single_blocks=1,
                             axes_dims=(4, 6, 6))
  made.data.update(image_size=64, buckets='canonical', segments_per_row=4, visual_tokens=2048, prompt_tokens=24)
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
