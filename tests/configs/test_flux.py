"""FLUX.1's configs without a folder: FLUX.1-dev as published, and adapters for it."""

import math
import pathlib

import pytest

from jaxgen.config import load_config
from jaxgen.config import validate
from jaxgen.data.buckets import bucket_set
from jaxgen.systems.registry import make_system

ROOT = pathlib.Path(__file__).parents[2]


def test_adapters_train_on_a_megapixel_of_any_shape():
  config = load_config(str(ROOT / 'configs/flux/lora.py'))
  validate(config)
  system = make_system(config)
  assert system.distilled and config.model.guidance == 1.0 and config.sampling.guidance == 3.5
  sizes = bucket_set(config.data.buckets)
  assert (1024, 1024) in sizes and system.layout.latent.factor == 16
  assert config.data.visual_tokens == max(height * width // 256 for height, width in sizes)
  assert config.objective.timestep_shift == pytest.approx(math.exp(1.15))  # that of 1024 x 1024
  assert config.data.prompt_tokens == system.layout.towers['text_encoder'].length == 512
