"""Vision patches and multimodal positions against transformers' processor and model."""

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_position_ids

from jaxgen.core.errors import UserError
from jaxgen.data.native_images import fitted_size
from jaxgen.data.native_images import native_patches
from jaxgen.data.native_images import native_positions
from jaxgen.data.native_images import rotary_positions


@pytest.mark.parametrize('size', [(60, 91), (200, 57), (17, 23), (30, 300)])
def test_patches_equal_the_processor(size):
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
  bounds = dict(min_pixels=56 * 56, max_pixels=28 * 28 * 8)
  expected = Qwen2VLImageProcessorPil(**bounds)(image, return_tensors='np')
  patches, grid = native_patches(image, **bounds)
  assert [1, *grid] == expected['image_grid_thw'][0].tolist()
  assert patches.dtype == np.float32
  np.testing.assert_array_equal(patches, expected['pixel_values'])


def test_sizes_stay_within_bounds_and_keep_their_shape():
  assert fitted_size(448, 448) == (448, 448)
  assert fitted_size(460, 433) == (448, 420)
  height, width = fitted_size(3000, 4000)
  assert height * width <= 28 * 28 * 1280 and abs(width / height - 4 / 3) < 0.05
  height, width = fitted_size(10, 20)
  assert height * width >= 56 * 56 and width > height
  with pytest.raises(UserError, match='over 200 times'):
    fitted_size(1, 201)


@pytest.mark.parametrize('grid', [(2, 2), (4, 6), (8, 2)])
def test_patches_stand_where_the_tower_expects_them(grid):
  expected = get_vision_position_ids(torch.tensor([(1, *grid)]), 2)
  np.testing.assert_array_equal(native_positions(*grid), expected)


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
  ours = rotary_positions(np.array(tokens) == 5, grids)
  np.testing.assert_array_equal(ours.T, expected[:, 0])
  np.testing.assert_array_equal(rotary_positions(np.zeros(3, bool), ())[:, 0], [0, 1, 2])


def test_images_without_their_tokens_are_named():
  with pytest.raises(UserError, match='image tokens = 1: the images of the sample have 6'):
    rotary_positions(np.array([False, True]), ((4, 6),))
