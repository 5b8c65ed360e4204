"""Patches and positions: InternVL's as ever, Qwen2-VL's against transformers."""

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_position_ids

from jaxgen.core.errors import UserError
from jaxgen.core.types import Vision
from jaxgen.data.vision import NativeVision
from jaxgen.data.vision import SquareVision
from jaxgen.data.vision import fitted_size
from jaxgen.data.vision import make_vision
from jaxgen.data.vision import native_positions
from jaxgen.data.vision import rotary_positions

SQUARE = Vision('square', patch=4, merge=2, size=16)
NATIVE = Vision('native', patch=14, merge=2)


def random_image(*size):
  return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_one_interface():
  vision = make_vision(NATIVE, min_pixels=1, max_pixels=2, max_side=480)
  assert vision == NativeVision(14, 2, 1, 2, 480)
  assert make_vision(SQUARE, max_side=480) == SquareVision(4, 2, 16)
  with pytest.raises(UserError, match='config.data.vision_size = 20: use a multiple of 8'):
    make_vision(Vision('square', patch=4, merge=2, size=20))
  with pytest.raises(UserError, match='config.data.vision_side = 20: use 28 or more'):
    make_vision(NATIVE, max_side=20)


def test_square_images_fill_the_square():
  vision = make_vision(SQUARE)
  image = vision.resize(random_image(31, 50), (31, 50))
  assert image.shape == (*vision.fit((31, 50)), 3) == (16, 16, 3)
  assert vision.tokens((16, 16)) == 4
  patches = vision.patches(image)
  assert patches.shape == (16, vision.patch_dim) and patches.dtype == np.float32
  # Every patch and pixel by hand: reading order, colour first, ImageNet's statistics.
  mean, std = (np.float32(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
  for patch, (row, column) in zip(patches, vision.patch_positions((16, 16)), strict=True):
    block = image[4 * row:4 * row + 4, 4 * column:4 * column + 4].astype(np.float32)
    expected = ((block / 255 - mean) / std).transpose(2, 0, 1).ravel()
    np.testing.assert_array_equal(patch, expected)
  assert vision.patch_positions((16, 16))[:5].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


def test_positions_of_square_images_are_those_of_text():
  index = np.array([-1, 0, 1, 2, 3, -1, -1])
  positions = make_vision(SQUARE).prompt_positions(index, [(16, 16)])
  assert positions.dtype == np.int32
  assert positions.tolist() == [[place] * 3 for place in range(7)]


@pytest.mark.parametrize('sizes', [
    [(60, 91)], [(200, 57), (17, 23)], [(30, 300), (56, 84), (99, 9)]])
def test_native_patches_equal_the_processor(sizes):
  images = [random_image(*size) for size in sizes]
  bounds = dict(min_pixels=56 * 56, max_pixels=28 * 28 * 8)
  expected = Qwen2VLImageProcessorPil(**bounds)(images, return_tensors='np')
  vision = make_vision(NATIVE, **bounds)
  resized = [vision.resize(image, image.shape[:2]) for image in images]
  fitted = [vision.fit(size) for size in sizes]
  assert [image.shape[:2] for image in resized] == fitted
  assert ([[1, height // 14, width // 14] for height, width in fitted]
          == expected['image_grid_thw'].tolist())
  patches = np.concatenate([vision.patches(image) for image in resized])
  assert patches.dtype == np.float32 and patches.shape[1] == vision.patch_dim
  np.testing.assert_array_equal(patches, expected['pixel_values'])
  assert sum(vision.tokens(size) for size in fitted) * 4 == len(patches)


def test_sizes_stay_within_bounds_and_keep_their_shape():
  assert fitted_size(448, 448) == (448, 448)
  assert fitted_size(460, 433) == (448, 420)
  height, width = fitted_size(3000, 4000)
  assert height * width <= 28 * 28 * 1280 and abs(width / height - 4 / 3) < 0.05
  height, width = fitted_size(10, 20)
  assert height * width >= 56 * 56 and width > height
  with pytest.raises(UserError, match='over 200 times'):
    fitted_size(1, 201)


def test_no_side_is_longer_than_the_cap():
  """480 pixels (L113), and a cap that rounding would overstep."""
  assert fitted_size(1080, 1920, max_side=480) == (280, 476)
  assert fitted_size(700, 700, max_side=490) == (476, 476)
  assert fitted_size(100, 200, max_side=480) == fitted_size(100, 200)
  rng = np.random.default_rng(0)
  for height, width in rng.integers(20, 3000, (200, 2)).tolist():
    sides = fitted_size(height, width, max_side=480)
    assert 28 <= min(sides) and max(sides) <= 480 and not any(side % 28 for side in sides)


@pytest.mark.parametrize('grid', [(2, 2), (4, 6), (8, 2)])
def test_patches_stand_where_the_tower_expects_them(grid):
  expected = get_vision_position_ids(torch.tensor([(1, *grid)]), 2)
  np.testing.assert_array_equal(native_positions(*grid), expected)
  size = (14 * grid[0], 14 * grid[1])
  np.testing.assert_array_equal(make_vision(NATIVE).patch_positions(size), expected)


def test_positions_equal_get_rope_index():
  grids = ((4, 6), (8, 2), (2, 2))
  tokens = [9, 9]
  for rows, columns in grids[:2]:
    tokens += [5] * (rows * columns // 4) + [9] * 3
  tokens += [5]  # an image at the very end
  ids = torch.tensor([tokens])
  config = Qwen2_5_VLConfig(
      vision_config=dict(depth=1, hidden_size=8, num_heads=2, intermediate_size=8,
                         out_hidden_size=8, fullatt_block_indexes=[0]),
      text_config=dict(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                       num_key_value_heads=1, intermediate_size=8, bos_token_id=1,
                       eos_token_id=2))
  with torch.device('meta'):
    model = Qwen2_5_VLModel(config)
  expected, _ = model.get_rope_index(
      ids, mm_token_type_ids=(ids == 5).int(),
      image_grid_thw=torch.tensor([(1, *grid) for grid in grids]))
  is_image = np.array(tokens) == 5
  np.testing.assert_array_equal(rotary_positions(is_image, grids).T, expected[:, 0])

  # The same from fitted sizes, with two queries behind, and with images counted in another order.
  vision, sizes = make_vision(NATIVE), [(14 * rows, 14 * columns) for rows, columns in grids]
  index = np.append(np.where(is_image, np.cumsum(is_image) - 1, -1), [-1, -1])
  ours = vision.prompt_positions(index, sizes)
  np.testing.assert_array_equal(ours[:-2].T, expected[:, 0])
  assert ours[-2:].tolist() == [[ours[-3].max() + 1] * 3, [ours[-3].max() + 2] * 3]
  moved = np.where(index >= 0, (index + 5) % 11, -1)
  np.testing.assert_array_equal(
      vision.prompt_positions(moved, [sizes[1], sizes[2], sizes[0]]), ours)
  assert vision.prompt_positions(np.full(3, -1), ())[:, 0].tolist() == [0, 1, 2]


def test_images_without_their_tokens_are_named():
  with pytest.raises(UserError, match='image tokens = 1: the images of the sample have 6'):
    rotary_positions(np.array([False, True]), ((4, 6),))
