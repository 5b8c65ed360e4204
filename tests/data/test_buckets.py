"""Aspect buckets: the lists, their names in configs, and the best fit."""

import math

import numpy as np
import pytest
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

from jaxgen.core.errors import UserError
from jaxgen.data import buckets


def test_the_list_is_37_sizes_on_the_grid():
  assert len(buckets.CANONICAL_BUCKETS) == len(set(buckets.CANONICAL_BUCKETS)) == 37
  assert all(side % buckets.GRID == 0 for size in buckets.CANONICAL_BUCKETS for side in size)


def test_the_list_is_wide_to_tall_around_each_base():
  canonical = buckets.CANONICAL_BUCKETS
  assert canonical[:3] == ((352, 672), (384, 640), (416, 608))
  assert canonical[10:12] == ((672, 352), (576, 960))
  assert canonical[23:25] == ((960, 576), (832, 1216)) and canonical[-1] == (1216, 832)


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


@pytest.mark.parametrize('base', [512, 1024])
def test_ratios_in_both_orientations(base):
  sizes = buckets.bucket_set(f'ratios:{base}')
  assert len(sizes) == len(set(sizes)) == 13 and (base, base) in sizes
  assert {size[::-1] for size in sizes} == set(sizes)
  assert all(side % buckets.GRID == 0 for size in sizes for side in size)
  for short, long in buckets.RATIOS:
    nearest = min(buckets.aspect_error((short, long), size) for size in sizes)
    assert nearest < math.log(1 + buckets.GRID / base)
  assert all(abs(height * width / base**2 - 1) < 0.04 for height, width in sizes)


def test_ratios_at_1024():
  assert set(buckets.ratio_buckets(1024)) == {
      (1024, 1024), (720, 1456), (832, 1248), (880, 1184), (800, 1328), (912, 1152), (768, 1360),
      (1456, 720), (1248, 832), (1184, 880), (1328, 800), (1152, 912), (1360, 768)}


def test_generated_buckets_cover_every_aspect_at_one_area():
  sizes = buckets.bucket_set('area:1048576/32')
  assert sizes == buckets.generated_buckets(1024**2, 32, 4) and len(sizes) == len(set(sizes))
  assert {size[::-1] for size in sizes} == set(sizes)
  assert sizes[0] == (512, 2048) and sizes[-1] == (2048, 512) and (1024, 1024) in sizes
  assert all(abs(height * width / 1024**2 - 1) < 0.04 for height, width in sizes)
  # Buckets are so close that hardly anything is cut off.
  for aspect in np.geomspace(0.25, 4, 100):
    size = (round(2000 * aspect**0.5), round(2000 / aspect**0.5))
    assert buckets.aspect_error(size, buckets.best_bucket(size, sizes)) < 0.07


def test_named_sets():
  assert buckets.bucket_set('canonical') == buckets.CANONICAL_BUCKETS
  assert buckets.bucket_set('square:24') == ((24, 24),)
  assert buckets.bucket_set('ratios:512/32') == buckets.ratio_buckets(512, 32)
  assert 1.9 < max(height / width for height, width in buckets.bucket_set('area:262144/16/2')) <= 2


@pytest.mark.parametrize('name', ['', 'squares:512', 'square:', 'square:0', 'square:512/16',
                                  'ratios:512/0', 'ratios:512/16/2', 'canonical:37', 'area:1.5'])
def test_unknown_names_list_what_is_known(name):
  with pytest.raises(UserError, match=f"^config.data.buckets = '{name}': use one of canonical, "):
    buckets.bucket_set(name)


def test_a_set_without_sizes_is_an_error():
  with pytest.raises(UserError, match='gives no sizes'):
    buckets.bucket_set('area:100/16')


@pytest.mark.parametrize('area', [1024**2, 384**2])
def test_area_sizes_are_those_of_qwen_image_edit(area):
  rng = np.random.default_rng(0)
  for height, width in rng.integers(100, 5000, (500, 2)).tolist():
    assert buckets.area_size((height, width), area) == calculate_dimensions(
        area, width / height)[::-1]
  assert buckets.area_size((10, 4000), 64**2) == (32, 1280)  # no side is nothing
