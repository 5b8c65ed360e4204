"""Configs that fine-tune published models: their sizes, and rows that hold every sample."""

import math

import jax
import pytest

from configs.qwen_image import base as qwen_image
from configs.qwen_image import lora as qwen_image_lora
from configs.z_image import base as z_image
from configs.z_image import lora as z_image_lora
from jaxgen.config import validate
from jaxgen.conversion.pipelines import make_config
from jaxgen.conversion.tables.pipelines import KINDS
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.buckets import area_size
from jaxgen.data.buckets import bucket_set
from jaxgen.data.vision import fitted_size
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.systems.registry import make_system
from jaxgen.training.state import trainable_paths

SHAPES = [(1000, 10 * percent) for percent in range(25, 401)]  # from 4:1 to 1:4


def billions(system, group) -> float:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(system.shapes([group]))) / 1e9


@pytest.mark.parametrize('module, sizes', [
    (qwen_image, dict(denoiser=20.43, mllm=8.29, autoencoder=0.13)),
    (z_image, dict(denoiser=6.15, text_encoder=4.02, autoencoder=0.08))],
    ids=['qwen_image', 'z_image'])
def test_sizes_of_the_releases(module, sizes):
  config = module.get_config()
  validate(config)
  system = make_system(config)
  assert {group: round(billions(system, group), 2) for group in system.groups} == sizes


@pytest.mark.parametrize('module', [qwen_image_lora, z_image_lora],
                         ids=['qwen_image', 'z_image'])
def test_adapters_alone_train_in_every_block(module):
  config = module.get_config()
  validate(config)
  system = make_system(config)
  trained = {path for path, trains in trainable_paths(config, system, system.groups).items()
             if trains}
  assert all('/lora/' in path and path.startswith('denoiser/blocks/') for path in trained)
  kernels = {path.rpartition('/')[0] for path in trees.flatten(system.shapes(['denoiser']))
             if path.startswith('denoiser/blocks/') and path.endswith('kernel')
             and 'modulation' not in path}
  assert {path.rpartition('/lora/')[0] for path in trained} == kernels


@pytest.mark.parametrize('name, images, seen', [
    ('QwenImagePipeline', 0, 0), ('QwenImageEditPipeline', 1, 1024**2),
    ('QwenImageEditPlusPipeline', 3, 384**2)])
def test_rows_hold_the_largest_sample_of_qwen_image(name, images, seen):
  """A target and images of any shape, their tokens and 512 words behind the cropped template."""
  config = qwen_image.trained(make_config(KINDS[name], qwen_image.SECTIONS, qwen_image.SCHEDULER,
                                          ''))
  data = config.data
  assert data.max_references == images
  pixels = [math.prod(size) for size in bucket_set(data.buckets)]
  given = [math.prod(area_size(shape, 1024**2)) for shape in SHAPES]
  assert data.visual_tokens * 16**2 >= max(pixels) + images * max(given)
  assert data.prompt_tokens >= 64 + 512
  if images:
    assert data.vision_area == seen
    tokens = max(math.prod(fitted_size(*area_size(shape, seen), max_pixels=data.vision_pixels[1]))
                 for shape in SHAPES) // 28**2
    assert data.patches >= 4 * images * tokens
    assert data.prompt_tokens >= 64 + 512 + images * (tokens + 8)


def test_rows_hold_the_largest_sample_of_z_image():
  config = z_image.get_config()
  largest = max(math.prod(size) for size in bucket_set(config.data.buckets)) // 16**2
  assert config.data.visual_tokens >= -(-largest // 32) * 32


def test_a_system_without_a_language_objective_says_so():
  config = z_image.get_config()
  config.objective.next_token = 0.5
  with pytest.raises(UserError, match='objective.next_token = 0.5: ZImage has no such objective'):
    needed_groups(make_system(config), make_objectives(config))
