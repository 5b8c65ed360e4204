"""Scenes are read back from pixels without an error, and nothing is seen in noise."""

import dataclasses
import io
import random

import numpy as np
import pytest
from PIL import Image
from PIL import ImageFilter

from jaxgen.data.shapes.drawing import STYLES
from jaxgen.data.shapes.scenes import Palette
from jaxgen.data.shapes.scenes import Scene
from jaxgen.data.shapes.scenes import draw_scene
from jaxgen.evaluation.shapes.reader import UNCLEAR
from jaxgen.evaluation.shapes.reader import read

# (height, width), grid: cells of 8 pixels and of 128, images of any aspect.
CANVASES = [((16, 16), (2, 2)), ((24, 24), (3, 3)), ((32, 32), (2, 2)), ((32, 32), (4, 4)),
            ((40, 24), (3, 2)), ((100, 60), (3, 2)), ((90, 150), (2, 4)), ((256, 256), (2, 2)),
            ((256, 200), (4, 4))]


def scenes(grid, count, **options):
  for seed in range(count):
    palette = Palette(random.Random(seed), 'all', grid)
    yield palette.scene(palette.rng.randint(0, grid[0] * grid[1]), **options)


@pytest.mark.parametrize('size, grid', CANVASES)
def test_every_scene_is_read_back(size, grid):
  for scene in scenes(grid, 60):
    assert read(draw_scene(scene, size), grid) == scene


@pytest.mark.parametrize('size, grid', CANVASES)
def test_every_style_is_read_back(size, grid):
  for scene in scenes(grid, 12, patterned=0, small=0):
    # On grey an inverted black and a white object look alike; nothing has no style.
    if scene.ground != 'grey' and scene.filled:
      for style in STYLES:
        styled = dataclasses.replace(scene, style=style)
        assert read(draw_scene(styled, size), grid, STYLES) == styled


def jpeg(image: np.ndarray) -> np.ndarray:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'JPEG', quality=90, subsampling=0)
  return np.asarray(Image.open(buffer))


def blurred(image: np.ndarray) -> np.ndarray:
  return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.5)))


def noisy(image: np.ndarray) -> np.ndarray:
  noise = np.random.default_rng(0).normal(0, 12, image.shape)
  return np.clip(image + noise, 0, 255).astype(np.uint8)


def shifted(image: np.ndarray) -> np.ndarray:
  return np.roll(image, max(1, image.shape[0] // 64), axis=(0, 1))


@pytest.mark.parametrize('spoil', [jpeg, blurred, noisy, shifted])
@pytest.mark.parametrize('size, grid', [((16, 16), (2, 2)), ((32, 32), (2, 2)), ((48, 48), (3, 3)),
                                        ((256, 256), (4, 4))])
def test_slight_damage_changes_nothing(spoil, size, grid):
  found = [read(spoil(draw_scene(scene, size)), grid) == scene for scene in scenes(grid, 60)]
  assert np.mean(found) >= 0.95


def test_nothing_is_seen_in_noise_or_in_an_empty_image():
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
  assert set(read(noise, (2, 2), STYLES).items) == {UNCLEAR}
  assert read(np.full((32, 32, 3), 128, np.uint8), (2, 2)) == Scene((2, 2), (None,) * 4)
