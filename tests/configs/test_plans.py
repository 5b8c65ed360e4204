"""The shapes that are only planned for: their sizes, and that the system can run them."""

import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from jaxgen.config import load_config
from jaxgen.config import validate
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.systems.registry import make_system

ROOT = pathlib.Path(__file__).parents[2]


def shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


# Billions of parameters: the published 11.90 and 12.82, less FLUX's guidance embedding and wider
# text input, and HunyuanVideo's.
@pytest.mark.parametrize('name, billions', [('flux_12b', 11.88), ('hunyuan_video_13b', 12.80)])
def test_the_denoiser_has_the_published_size_and_runs(name, billions):
  config = load_config(str(ROOT / f'configs/plans/{name}.py'))
  validate(config)
  system = make_system(config)
  params = system.shapes(['denoiser'])
  assert round(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) / 1e9, 2) == billions
  assert config.train.rows == 2 * 64 and config.data.visual_tokens == 64**2
  ids = shape(2, 16, dtype=jnp.int32)
  visual = Visual(shape(2, 16, 64), shape(2, 16, 3, dtype=jnp.int32), ids, ids,
                  shape(2, 16, dtype=bool))
  conditioning = Conditioning(shape(2, 16, 1536), shape(2, 16, 3, dtype=jnp.int32), ids,
                              pooled=shape(2, 1, system.models['denoiser'].pooled_dim))
  velocity = jax.eval_shape(
      system.denoise, params, visual.latents, shape(2, 1), visual, conditioning)
  assert (velocity.shape, velocity.dtype) == ((2, 16, 64), jnp.float32)
