"""Packing: a golden batch of two samples in a row, fits and refusals."""

import dataclasses

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.packing import Example
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import VISION_MEAN
from jaxgen.data.packing import VISION_STD
from jaxgen.data.packing import pack
from jaxgen.data.sample import hash_id

SHAPE = RowShape(segments=3, visual_tokens=9, prompt_tokens=12, patches=12, vision_size=4,
                 vision_patch=2, vision_tokens=1, latent_factor=4, latent_channels=5)


def example(name, tokens, *, image_at=None, height=8, width=8, **fields):
  index = np.full(len(tokens), -1, np.int32)
  seen = ()
  if image_at is not None:
    index[image_at] = 0
    seen = (np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + len(name),)
  return Example(name, source=1, tokens=np.asarray(tokens, np.int32), image_index=index,
                 loss_mask=np.zeros(len(tokens), np.float32), seen=seen,
                 targets=(np.full((height, width, 3), len(name), np.uint8),), **fields)


@pytest.fixture(scope='module')
def packed():
  first = example('a', [7, 8, 9])
  second = example('bb', [5, 6, 7, 8], image_at=2, width=16, height=4, seen_is_target=True)
  third = example('ccc', [4, 4], image_at=1)
  return pack([[first, second], [third]], SHAPE, pad=99)


def test_golden_prompt(packed):
  prompt = packed.batch.prompt
  assert prompt.tokens.tolist() == [[7, 8, 9, 5, 6, 7, 8] + [99] * 5, [4, 4] + [99] * 10]
  assert prompt.segments.tolist() == [[1, 1, 1, 2, 2, 2, 2] + [0] * 5, [1, 1] + [0] * 10]
  assert prompt.positions[0, :, 0].tolist() == [0, 1, 2, 0, 1, 2, 3] + [0] * 5
  assert prompt.image_index.tolist() == [[-1] * 5 + [0] + [-1] * 6, [-1, 0] + [-1] * 10]
  assert prompt.patch_segments.tolist() == [[2] * 4 + [0] * 8, [1] * 4 + [0] * 8]
  assert prompt.patch_is_target.tolist() == [[True] * 4 + [False] * 8, [False] * 12]
  assert prompt.patch_positions[0, :4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_golden_visual(packed):
  visual = packed.batch.visual
  assert visual.segments.tolist() == [[1] * 4 + [2] * 4 + [0], [1] * 4 + [0] * 5]
  assert visual.is_target.tolist() == (visual.segments > 0).tolist()
  assert visual.positions[0, :8, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1],
                                                  [0, 0], [0, 1], [0, 2], [0, 3]]
  assert visual.latents.shape == (2, 9, 5) and not visual.latents.any()
  assert packed.padding_share == pytest.approx(6 / 18)


def test_images_know_their_slots(packed):
  assert set(packed.images) == {(8, 8), (4, 16)}
  images, slots = packed.images[8, 8]
  assert images.shape == (2, 8, 8, 3) and images[:, 0, 0, 0].tolist() == [1, 3]
  assert slots.tolist() == [0, 9] and packed.images[4, 16][1].tolist() == [4]


def test_meta(packed):
  assert packed.ids == (('a', 'bb'), ('ccc',))
  assert packed.batch.meta.sample_ids.tolist() == [[hash_id('a'), hash_id('bb'), -1],
                                                   [hash_id('ccc'), -1, -1]]
  assert packed.batch.meta.task_ids.tolist() == [[1, 1, -1], [1, -1, -1]]


def test_patches_are_normalised_and_flattened_channel_first(packed):
  image = (np.arange(48).reshape(4, 4, 3) + 2) / 255
  value = (image - VISION_MEAN) / VISION_STD
  for index, (top, left) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2))):
    patch = value[top:top + 2, left:left + 2].transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(packed.batch.prompt.patches[0, index], patch, rtol=1e-5)


def test_second_image_of_a_row_counts_on():
  rows = [[example('a', [1, 2], image_at=1, height=4, width=4),
           example('b', [1, 2], image_at=0, height=4, width=4)]]
  assert pack(rows, SHAPE, 0).batch.prompt.image_index[0, :4].tolist() == [-1, 0, 1, -1]


@pytest.mark.parametrize('limit, more', [
    ({'segments': 1}, example('b', [1])),
    ({'visual_tokens': 7}, example('b', [1])),
    ({'prompt_tokens': 4}, example('b', [1, 2])),
])
def test_a_full_row_turns_the_next_away(limit, more):
  row = Row(dataclasses.replace(SHAPE, **limit))
  assert row.add(example('a', [1, 2, 3]))
  assert not row.add(more) and len(row.examples) == 1


@pytest.mark.parametrize('big, field', [
    (example('big', [1] * 13), 'config.data.prompt_tokens'),
    (example('big', [1], height=16, width=16), 'config.data.visual_tokens'),
])
def test_what_fits_no_row_is_named(big, field):
  with pytest.raises(UserError, match=rf'^sample big: has \d+ .* a row holds \d+; raise {field}'):
    Row(SHAPE).add(big)


def test_without_visual_tokens():
  shape = dataclasses.replace(SHAPE, visual_tokens=0)
  bare = dataclasses.replace(example('a', [1]), targets=())
  loaded = pack([[bare]], shape, 0)
  assert loaded.images == {} and loaded.padding_share == 0
  assert loaded.batch.visual.latents.shape == (1, 0, 5)
