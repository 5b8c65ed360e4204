"""Packing: a golden batch of samples with several images, towers, fits and refusals."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.core.errors import UserError
from jaxgen.core.types import Latent
from jaxgen.core.types import Layout
from jaxgen.core.types import Text
from jaxgen.core.types import Vision
from jaxgen.data.example import Example
from jaxgen.data.example import LatentImage
from jaxgen.data.example import Patches
from jaxgen.data.example import TokenizedPrompt
from jaxgen.data.example import TowerPrompt
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.positions import grid_positions
from jaxgen.data.positions import image_positions
from jaxgen.data.sample import hash_id

SHAPE = RowShape(segments=3, visual_tokens=12, prompt_tokens=12, patches=16, patch_dim=6, merge=2,
                 latent_factor=4, latent_channels=5, towers={'t5': 3})


def prompt(tokens, *, image_at=(), query_at=()):
  count = len(tokens)
  index = {'image': np.full(count, -1, np.int32), 'query': np.full(count, -1, np.int32)}
  index['image'][list(image_at)] = np.arange(len(image_at))
  index['query'][list(query_at)] = np.arange(len(query_at))
  places = np.repeat(np.arange(count, dtype=np.int32)[:, None], 3, axis=1)
  return TokenizedPrompt(np.asarray(tokens, np.int32), places + 10, np.full(count, 0.5, np.float32),
                         index['image'], index['query'], np.arange(count) % 2 == 0, places + 20)


def patches(images=0, *, value=1.0, maskable=False):
  """Images of 2 x 2 patches, one image token each."""
  return Patches(np.full((images * 4, 6), value, np.float32),
                 np.tile(grid_positions(2, 2), (images, 1)),
                 np.repeat(np.arange(images, dtype=np.int32) + 1, 4),
                 np.full(images * 4, maskable))


def image(height, width, *, is_target=True, **content):
  return LatentImage((height, width), image_positions(height // 4, width // 4), is_target,
                     **content)


def pixels(height, width, value=0):
  return np.full((height, width, 3), value, np.uint8)


def tower(value):
  return TowerPrompt(np.full(3, value, np.int32), np.asarray([True, True, False]),
                     np.asarray([False, True, False]), np.full((3, 3), value + 1, np.int32))


def example(name, tokens=(1,), *, seen=0, images=(), **fields):
  return Example(name, 1, prompt(tokens, image_at=range(seen)), patches(seen), images, **fields)


@pytest.fixture(scope='module')
def packed():
  """An edit with a known reference, then two references and an image to be drawn; and a text."""
  known = np.arange(10, dtype=np.float32).reshape(2, 5)
  edit = Example('a', 1, prompt([7, 8, 9], image_at=[1], query_at=[2]), patches(1, maskable=True),
                 (image(4, 8, is_target=False, latents=known),
                  image(8, 8, pixels=pixels(8, 8, 5))), {'t5': tower(4)})
  many = Example('bb', 2, prompt([5, 6, 6, 8], image_at=[1, 2]), patches(2, value=2.0),
                 (image(4, 4, is_target=False, pixels=pixels(4, 4, 6)),
                  image(4, 8, is_target=False, pixels=pixels(4, 8, 7)), image(4, 8)))
  text = example('ccc', [4, 4], images=(image(8, 8, pixels=pixels(8, 8, 8)),))
  return pack([[edit, many], [text]], SHAPE, pad=99, first_row=6)


def test_golden_prompt(packed):
  got = packed.batch.prompt
  assert got.tokens.tolist() == [[7, 8, 9, 5, 6, 6, 8] + [99] * 5, [4, 4] + [99] * 10]
  assert got.segments.tolist() == [[1] * 3 + [2] * 4 + [0] * 5, [1] * 2 + [0] * 10]
  assert got.positions[0, :, 2].tolist() == [10, 11, 12, 10, 11, 12, 13] + [0] * 5
  assert got.loss_mask[0].tolist() == [0.5] * 7 + [0] * 5
  assert got.image_index.tolist() == [[-1, 0, -1, -1, 1, 2, -1] + [-1] * 5, [-1] * 12]
  assert got.query_index[0].tolist() == [-1, -1, 0] + [-1] * 9
  assert got.shown[0].tolist() == [True, False, True, True, False, True, False] + [False] * 5
  assert got.state_positions[0, :, 0].tolist() == [20, 21, 22, 20, 21, 22, 23] + [0] * 5


def test_golden_patches(packed):
  got = packed.batch.prompt
  assert got.patch_images.tolist() == [[1] * 4 + [2] * 4 + [3] * 4 + [0] * 4, [0] * 16]
  assert got.patches[0, :, 0].tolist() == [1] * 4 + [2] * 8 + [0] * 4
  assert got.maskable[0].tolist() == [True] * 4 + [False] * 12
  assert got.patch_positions[0, :12].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] * 3


def test_golden_visual(packed):
  got = packed.batch.visual
  assert got.segments.tolist() == [[1] * 6 + [2] * 5 + [0], [1] * 4 + [0] * 8]
  assert got.images.tolist() == [[1] * 2 + [2] * 4 + [3] + [4] * 2 + [5] * 2 + [0],
                                 [1] * 4 + [0] * 8]
  assert got.is_target.tolist() == [[False] * 2 + [True] * 4 + [False] * 3 + [True] * 2 + [False],
                                    [True] * 4 + [False] * 8]
  assert got.is_clean[0].tolist() == [True] * 2 + [False] * 4 + [True] * 3 + [False] * 3
  assert got.positions[0, :7, 1:].tolist() == [[0, 0], [0, 1], [0, 0], [0, 1], [1, 0], [1, 1],
                                               [0, 0]]
  assert got.latents[0, :2].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
  assert not got.latents[0, 2:].any() and not got.latents[1].any()
  assert packed.padding_share == pytest.approx(9 / 24)


def test_images_to_encode_know_their_slots(packed):
  assert {size: (images[:, 0, 0, 0].tolist(), slots.tolist())
          for size, (images, slots) in packed.images.items()} == {
              (8, 8): ([5, 8], [2, 12]), (4, 4): ([6], [6]), (4, 8): ([7], [7])}
  assert packed.images[8, 8][0].shape == (2, 8, 8, 3)
  assert packed.images[8, 8][0].dtype == np.uint8 and packed.images[8, 8][1].dtype == np.int32


def test_golden_tower(packed):
  got = packed.batch.towers['t5']
  assert got.tokens.tolist() == [[[4] * 3, [0] * 3, [0] * 3], [[0] * 3] * 3]
  assert got.mask.sum() == 2 and got.mask[0, 0].tolist() == [True, True, False]
  assert got.shown.sum() == 1 and got.shown[0, 0, 1]
  assert (got.state_positions[0, 0] == 5).all() and not got.state_positions[0, 1:].any()


def test_golden_meta(packed):
  assert packed.ids == (('a', 'bb'), ('ccc',))
  meta = packed.batch.meta
  assert meta.sample_ids.tolist() == [[hash_id('a'), hash_id('bb'), -1], [hash_id('ccc'), -1, -1]]
  assert meta.source_ids.tolist() == [[1, 2, -1], [1, -1, -1]]
  assert meta.rows.tolist() == [6, 7] and meta.rows.dtype == np.int32


def test_image_tokens_follow_the_patches_of_a_prompt_that_names_fewer():
  """A prompt whose end was cut still leaves its patches in the row."""
  first = Example('a', 0, prompt([3, 4], image_at=[0]), patches(2))
  second = Example('b', 0, prompt([5], image_at=[0]), patches(1))
  assert pack([[first, second]], SHAPE).batch.prompt.image_index[0, :3].tolist() == [0, -1, 2]


def test_without_images_prompt_or_towers():
  bare = dataclasses.replace(SHAPE, visual_tokens=0, patches=0, towers={})
  loaded = pack([[example('a')]], bare)
  assert loaded.images == {} and loaded.padding_share == 0 and loaded.batch.towers == {}
  assert loaded.batch.visual.latents.shape == (1, 0, 5)
  silent = dataclasses.replace(SHAPE, prompt_tokens=0)
  loaded = pack([[example('a', (), images=(image(4, 4),))], []], silent)
  assert loaded.batch.prompt.tokens.shape == (2, 0) and loaded.ids == (('a',), ())
  assert (loaded.batch.visual.segments > 0).sum() == 1


def test_what_does_not_match_the_models_is_a_defect():
  with pytest.raises(AssertionError):
    pack([[example('a', images=(LatentImage((8, 8), image_positions(1, 2), True),))]], SHAPE)
  with pytest.raises(AssertionError):
    pack([[example('a', towers={'t5': tower(1)})]],
         dataclasses.replace(SHAPE, towers={'t5': 4}))
  with pytest.raises(AssertionError):
    pack([[Example('a', 0, prompt([5, 6], image_at=[0, 1]), patches(1))]], SHAPE)


@pytest.mark.parametrize('limit, more', [
    ({'segments': 1}, {}),
    ({'visual_tokens': 7}, {'images': (image(8, 8),)}),
    ({'prompt_tokens': 4}, {'tokens': [1, 2]}),
    ({'patches': 7}, {'seen': 1}),
])
def test_a_full_row_turns_the_next_away(limit, more):
  row = Row(dataclasses.replace(SHAPE, **limit))
  assert row.add(example('a', [1, 2, 3], seen=1, images=(image(8, 8),)))
  assert row.full == (limit == {'segments': 1})
  assert not row.fits(example('b', **more)) and not row.add(example('b', **more))
  assert [kept.id for kept in row.examples] == ['a']


@pytest.mark.parametrize('big, reason', [
    ({'tokens': [1] * 13}, 'has 13 prompt tokens, but a row holds 12; raise '
                           'config.data.prompt_tokens'),
    ({'images': (image(8, 8),) * 4}, 'has 16 visual tokens, but a row holds 12; raise '
                                     'config.data.visual_tokens'),
    ({'tokens': [1] * 5, 'seen': 5}, 'has 20 patches, but a row holds 16; raise '
                                     'config.data.patches'),
    ({'tokens': [1] * 12, 'seen': 4, 'images': (image(8, 8),) * 3}, ''),
])
def test_what_fits_no_row_is_named(big, reason):
  assert SHAPE.refusal(example('big', **big)) == reason


SQUARE = Vision('square', patch=4, merge=2, size=16)
NATIVE = Vision('native', patch=4, merge=2)


def shape_of(vision, *, sees=True, patches=0, dialect='plain'):
  data = ConfigDict(dict(segments_per_row=3, visual_tokens=10, prompt_tokens=9, patches=patches))
  return RowShape.of(data, Layout(Latent(16, 64), vision, towers={'t5': Text(dialect, 7)}), sees)


def test_row_shape_of_a_config():
  assert shape_of(SQUARE) == RowShape(3, 10, 9, 48, 48, 2, 16, 64, {'t5': 7})
  assert shape_of(SQUARE, patches=16).patches == 16
  assert shape_of(SQUARE, sees=False).patches == shape_of(NATIVE, sees=False).patches == 0
  native = shape_of(NATIVE, patches=20)
  assert (native.patches, native.patch_dim) == (20, 96)
  blind = shape_of(None, sees=False, dialect='hunyuan_video')
  assert (blind.patches, blind.patch_dim, blind.towers) == (0, 0, {'t5': 7 + 95})


@pytest.mark.parametrize('vision, patches, unit', [
    (NATIVE, 0, 'a multiple of 4, the patches of one image token'),
    (NATIVE, 6, 'a multiple of 4, the patches of one image token'),
    (SQUARE, 20, 'a multiple of 16, the patches of one image'),
])
def test_patches_must_be_given_in_whole_images(vision, patches, unit):
  with pytest.raises(UserError, match=f'^config.data.patches = {patches}: use {unit}'):
    shape_of(vision, patches=patches)


def test_learned_pads_belong_to_a_sample_and_to_no_image():
  first = example('a', images=(image(4, 12),), pads=2)
  loaded = pack([[first, example('b', images=(image(8, 8),))]], SHAPE)
  visual = loaded.batch.visual
  assert visual.segments[0].tolist() == [1] * 5 + [2] * 4 + [0] * 3
  assert visual.images[0].tolist() == [1, 1, 1, 0, 0, 2, 2, 2, 2, 0, 0, 0]
  assert not visual.is_target[0, 3:5].any() and not visual.positions[0, 3:5].any()
  assert SHAPE.needs(first)['visual tokens'] == 5
