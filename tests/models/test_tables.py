"""Tables of frequencies against those that the classes compute in fp32 on this processor."""

import math

import jax
import numpy as np
import pytest
import torch
import transformers
from diffusers.models import embeddings
from diffusers.models.transformers import transformer_qwenimage
from diffusers.models.transformers.transformer_z_image import TimestepEmbedder
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionRotaryEmbedding

from jaxgen.models.layers.embeddings import time_frequencies
from jaxgen.models.layers.embeddings import timestep_embedding
from jaxgen.models.layers.rope import RopeScaling
from jaxgen.models.layers.rope import frequencies
from tests.models import float64

EPSILON = np.finfo(np.float32).eps
# An angle that is its own sine, in fp32: shows a table that a function keeps to itself.
TINY = 2.0 ** -20
# Features f32[n, dim] of times, which it multiplies by a scale; cosines first.
FEATURES = {
    'diffusers': lambda t, dim, scale=1: embeddings.get_timestep_embedding(
        t, dim, True, 0, scale=scale),
    'qwen_image': lambda t, dim, scale=1: transformer_qwenimage.get_timestep_embedding(
        t, dim, True, 0, scale=scale),
    'z_image': lambda t, dim, scale=1: TimestepEmbedder.timestep_embedding(scale * t, dim),
}


@pytest.mark.parametrize('dim', [32, 256])
@pytest.mark.parametrize('name', FEATURES)
def test_time_frequencies_are_those_of_the_class_within_an_ulp(name, dim):
  theirs = FEATURES[name](torch.tensor([TINY]), dim)[0, dim // 2:].numpy() / np.float32(TINY)
  ours = time_frequencies(dim // 2)
  np.testing.assert_array_compare(np.less_equal, np.abs(theirs - ours), np.spacing(ours))


@pytest.mark.parametrize('name', FEATURES)
def test_features_of_time_are_those_of_the_class(name):
  """Within the roundings of time, frequency and their product, which go up to 1000 radians."""
  t = np.random.default_rng(0).uniform(size=50).astype(np.float32)
  theirs = FEATURES[name](torch.tensor(t), 256, 1000).numpy()
  ours = np.asarray(jax.jit(timestep_embedding)(t))
  angle = 1000 * t[:, None] * np.tile(time_frequencies(128), 2)
  np.testing.assert_array_compare(np.less_equal, np.abs(ours - theirs), 2 * EPSILON * (angle + 1))


def llama(**rope):
  return transformers.LlamaConfig(head_dim=16, rope_parameters=rope)


LLAMA_3_1 = llama(rope_type='llama3', rope_theta=5e5, factor=8.0, low_freq_factor=1.0,
                  high_freq_factor=4.0, original_max_position_embeddings=64)
VISION = transformers.Qwen2_5_VLConfig(
    vision_config=dict(hidden_size=64, num_heads=2)).vision_config


def of_diffusers():
  """The rotation of one tiny position, of which the sines are asked."""
  return embeddings.get_1d_rotary_pos_embed(
      16, torch.tensor([TINY]), 256.0, use_real=True, repeat_interleave_real=False)[1][0, :8] / TINY


def of_qwen_image():
  rope = transformer_qwenimage.QwenEmbedRope(10_000, [16, 16, 16])
  return rope.rope_params(torch.tensor([TINY]), 16, 10_000)[0].imag / TINY


# Their table, and what ours is called with.
ROTATIONS = {
    'llama': (lambda: LlamaRotaryEmbedding(llama(rope_type='default', rope_theta=5e5)).inv_freq,
              (8, 5e5)),
    'llama 3.1': (lambda: LlamaRotaryEmbedding(LLAMA_3_1).inv_freq,
                  (8, 5e5, RopeScaling(factor=8.0, original=64))),
    'qwen vision': (lambda: Qwen2_5_VLVisionRotaryEmbedding(VISION).inv_freq, (8, 1e4)),
    'hunyuan video': (of_diffusers, (8, 256.0)),
    'qwen image': (of_qwen_image, (8, 1e4)),
}


@pytest.mark.parametrize('theirs, arguments', ROTATIONS.values(), ids=ROTATIONS)
def test_rotary_frequencies_are_those_of_the_class(theirs, arguments):
  """Those of the class in float64 within an ulp; its own within the rounding of its exponents.

  An exponent in [0, 1] is half an epsilon off; the power multiplies that by the logarithm of its
  base, and the Llama scaling by up to four.
  """
  ours = frequencies(*arguments)
  with float64.throughout():
    exact = theirs().numpy()
  np.testing.assert_array_compare(np.less_equal, np.abs(exact - ours), np.spacing(ours))
  bound = (2 + math.log(arguments[1]) / 2) * (4 if len(arguments) == 3 else 1)
  np.testing.assert_array_compare(
      np.less_equal, np.abs(theirs().numpy() - ours), bound * np.spacing(ours))
