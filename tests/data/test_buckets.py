"""Aspect buckets: the list, the best fit, and the geometry of resize and crop."""

import math

import numpy as np
from PIL import Image

from jaxgen.data import buckets


def test_the_list_is_37_sizes_on_the_grid():
  assert len(buckets.CANONICAL_BUCKETS) == len(set(buckets.CANONICAL_BUCKETS)) == 37
  assert all(side % buckets.GRID == 0 for size in buckets.CANONICAL_BUCKETS for side in size)


def test_the_list_is_what_the_generator_gives():
  generated = [size for base, reach in zip(buckets.BASES, (5, 6, 6))
               for size in buckets.constant_sum_buckets(base, reach)]
  assert sorted(generated) == sorted(buckets.CANONICAL_BUCKETS)


def test_best_bucket_has_the_least_aspect_error():
  rng = np.random.default_rng(0)
  sizes = np.exp(rng.uniform(np.log(32), np.log(8000), (10_000, 2))).astype(int)
  shapes = np.log([height / width for height, width in buckets.CANONICAL_BUCKETS])
  for height, width in sizes.tolist():
    chosen = buckets.best_bucket((height, width))
    least = np.abs(math.log(height / width) - shapes).min()
    assert abs(math.log(height / width) - math.log(chosen[0] / chosen[1])) <= least + 1e-8


def test_squares_go_to_the_base_nearest_in_area():
  for side, base in ((100, 512), (600, 512), (700, 768), (900, 1024), (4000, 1024)):
    assert buckets.best_bucket((side, side)) == (base, base)


def test_square_crop_is_the_middle():
  image = np.zeros((40, 100, 3), np.uint8)
  image[:, 30:70] = 200  # exactly the central square
  out = buckets.resize_and_crop(image, (20, 20))
  assert out.shape == (20, 20, 3)
  # The filter sees the neighbours of the crop, as it does when the whole image is resized.
  assert (out[:, 2:-2] == 200).all() and (out > 180).all()


def test_crop_covers_the_size_for_any_aspect():
  image = np.full((31, 57, 3), 77, np.uint8)
  for size in ((32, 32), (16, 48), (48, 16)):
    out = buckets.resize_and_crop(image, size)
    assert out.shape == (*size, 3) and out.dtype == np.uint8 and (out == 77).all()


def test_same_size_passes_through():
  image = np.zeros((16, 24, 3), np.uint8)
  assert buckets.resize_and_crop(image, (16, 24)) is image


def test_equals_resizing_the_short_edge_then_cutting():
  image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
  whole = np.asarray(Image.fromarray(image).resize((64, 32), Image.Resampling.BICUBIC))
  out = buckets.resize_and_crop(image, (32, 32))
  np.testing.assert_array_equal(out, whole[:, 16:-16])
