"""fp8 matmuls: how close a denoiser stays to bf16, and what a Hopper GPU is asked for."""

import collections
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.mmdit import MMDiTConfig
from jaxgen.models.layers import fp8
from tests.models.rows import denoiser_inputs

# Two scanned stacks, recomputed in the backward pass as large models are.
MODEL = MMDiT(MMDiTConfig(in_channels=8, cond_dim=16, width=64, heads=4, double_blocks=2,
                          single_blocks=2, axes_dims=(4, 6, 6), remat='attention'), jnp.bfloat16)
KERNELS = 17  # between hidden units: 12 of a double block, 5 of a single one
ROWS, LENGTH, PROMPT = 2, 32, 8
PRODUCT = re.compile(r'stablehlo\.dot_general .*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)')


@pytest.fixture(scope='module')
def inputs():
  """Parameters, none of them zero, and what the model reads."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=(ROWS, *shape)).astype(np.float32)

  def ones(*shape):
    return np.ones((ROWS, *shape), np.int32)

  arrays = denoiser_inputs(
      normal(LENGTH, 8), np.full((ROWS, 1), 0.4, np.float32), ones(LENGTH, 3), ones(LENGTH),
      normal(PROMPT, 16), ones(PROMPT, 3), ones(PROMPT))
  shapes = nn.unbox(jax.eval_shape(lambda: MODEL.init(jax.random.key(0), *arrays)))
  params = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), shapes)
  return params, arrays, normal(LENGTH, 8)


def traced(wanted):
  """Output of the denoiser and gradients by all of its parameters, to be lowered."""
  def denoise(params, arrays, gradient):
    with fp8.products(wanted):
      out, pull = jax.vjp(lambda params: MODEL.apply(params, *arrays), params)
    return out, *pull(gradient.astype(out.dtype))

  return jax.jit(denoise)


def distance(ours, theirs):
  """Norm of the difference over that of ``theirs``, and the cosine between both."""
  ours, theirs = (np.concatenate([np.float64(leaf).ravel() for leaf in jax.tree.leaves(tree)])
                  for tree in (ours, theirs))
  norm = np.linalg.norm(theirs)
  return np.linalg.norm(ours - theirs) / norm, np.vdot(ours, theirs) / np.linalg.norm(ours) / norm


def test_output_and_gradients_stay_close_to_those_of_bfloat16(inputs):
  results = zip(traced(True)(*inputs), traced(False)(*inputs), strict=True)
  # Values of three bits behind the point move the output by 5 %; twelve products of them and of
  # gradients with two bits move the gradients by 15 %, which point the same way.
  for (ours, theirs), largest, least in zip(results, (0.08, 0.2), (0.997, 0.98), strict=True):
    assert jax.tree.map(jnp.result_type, ours) == jax.tree.map(jnp.result_type, theirs)
    error, cosine = distance(ours, theirs)
    assert 0.01 < error < largest and cosine > least


def test_products_of_hidden_units_have_operands_of_eight_bits_on_a_gpu(inputs):
  before, now = (collections.Counter(PRODUCT.findall(traced(wanted).trace(*inputs).lower(
      lowering_platforms=('cuda',)).as_text())) for wanted in (False, True))
  assert not [pair for pair in before if 'f8' in ''.join(pair)]
  # By kernels and by what goes in, each with the gradient on the other side; forward, and again
  # what the backward pass recomputes.
  assert now['f8E4M3FN', 'f8E5M2'] == now['f8E5M2', 'f8E4M3FN'] == KERNELS
  assert KERNELS < now['f8E4M3FN', 'f8E4M3FN'] <= 2 * KERNELS
  assert now['f32', 'f32'] == before['f32', 'f32'] > 0  # time and modulation


def test_parameters_are_those_of_any_other_run(inputs):
  with fp8.products():
    own = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), *inputs[1]))
  others = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), *inputs[1]))
  assert jax.tree.map(str, own) == jax.tree.map(str, others)
