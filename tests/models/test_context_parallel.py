"""Packed rows of several unequal images, split over devices: the same as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.mmdit import MMDiTConfig
from jaxgen.models.layers.attention import attend
from jaxgen.planning import hlo
from jaxgen.sharding import partition
from jaxgen.sharding import rules
from jaxgen.sharding.mesh import make_mesh
from tests.models.rows import denoiser_inputs

WAYS = {'gathered': rules.RULES, 'ring': rules.with_changes([('keys', ('context',), True)])}
IMAGES = ((20, 7, 5), (3, 26, 1))  # tokens of the images of each row; the rest is padding
PROMPTS = ((6, 5, 3), (2, 7, 1))
LENGTH, PROMPT = 40, 16
MODEL = MMDiT(MMDiTConfig(in_channels=8, cond_dim=12, width=32, heads=4, double_blocks=2,
                          single_blocks=2, axes_dims=(2, 2, 4)))


def mesh_of(ways):
  sizes = ConfigDict(dict(data=2, fsdp=1, context=ways, tensor=1))
  return make_mesh(sizes, jax.devices()[:2 * ways])


def numbered(lengths, size):
  """Segments i32[2, size]; 0 = padding."""
  segments = np.zeros((2, size), np.int32)
  for row, counts in enumerate(lengths):
    own = np.repeat(np.arange(1, len(counts) + 1), counts)
    segments[row, :len(own)] = own
  return segments


@functools.cache
def batch():
  """Inputs of the model, and what to multiply its output with."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  segments = numbered(IMAGES, LENGTH)
  inputs = denoiser_inputs(
      latents=normal(2, LENGTH, 8), t=rng.uniform(size=(2, 3)).astype(np.float32),
      positions=rng.integers(0, 9, (2, LENGTH, 3)).astype(np.int32), segments=segments,
      states=normal(2, PROMPT, 12), state_positions=np.zeros((2, PROMPT, 3), np.int32),
      state_segments=numbered(PROMPTS, PROMPT))
  return inputs, normal(2, LENGTH, 8) * (segments > 0)[..., None]


@functools.cache
def parameters():
  """Random ones, without the zeros of the initialisation."""
  shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), *batch()[0]))
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(1)
  return tree.unflatten([0.3 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves])


def denoise(params, inputs, weights):
  """Output of the real tokens, gradients with respect to parameters and latents."""
  x_t, *others = inputs

  def score(params, x_t):
    out = MODEL.apply(params, x_t, *others) * (weights != 0)
    return jnp.sum(out * weights), out

  (_, out), gradients = jax.value_and_grad(score, (0, 1), has_aux=True)(params, x_t)
  return out, gradients


@pytest.fixture(scope='module')
def alone():
  return jax.jit(denoise)(parameters(), *batch())


@pytest.mark.parametrize('name, ways', [('gathered', 4), ('ring', 2), ('ring', 4)])
def test_a_denoiser_of_split_rows_equals_one_device(alone, name, ways):
  with partition.scope(mesh_of(ways), WAYS[name]):
    program = jax.jit(lambda *given: denoise(*given)).lower(parameters(), *batch()).compile()
  split = program(parameters(), *batch())
  for ours, one in zip(jax.tree.leaves(split), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(ours, one, atol=2e-5 * max(1.0, np.abs(one).max()))


def attention(q, k, v, segments, positions, gradient):
  out, pull_back = jax.vjp(
      lambda q, k, v: attend(q, k, v, q_segments=segments, kv_segments=segments,
                             q_positions=positions, kv_positions=positions), q, k, v)
  return out, *pull_back(gradient)


@pytest.mark.parametrize('causal', [False, True])
def test_keys_rotate_around_a_ring_and_are_never_gathered(causal):
  rng = np.random.default_rng(2)
  q, k, v, gradient = rng.normal(size=(4, 2, LENGTH, 4, 8)).astype(np.float32)
  segments = numbered(IMAGES, LENGTH)
  segments[1] = 0  # a row that sees nothing at all
  positions = rng.permutation(LENGTH)[None].repeat(2, 0).astype(np.int32) if causal else None
  inputs = (q, k[:, :, :2], v[:, :, :2], segments, positions, gradient)
  alone = jax.jit(attention)(*inputs)
  for name, table in WAYS.items():
    with partition.scope(mesh_of(4), table):
      split = jax.sharding.NamedSharding(
          mesh_of(4), jax.sharding.PartitionSpec('data', 'context'))
      program = jax.jit(lambda *given: attention(*given), in_shardings=split,
                        out_shardings=split).lower(*inputs).compile()
    for ours, one in zip(program(*jax.device_put(inputs, split)), alone, strict=True):
      np.testing.assert_allclose(ours, one, atol=2e-5)
      assert not np.asarray(ours)[1].any() and not np.asarray(ours)[segments == 0].any()
    module = hlo.Module(program.as_text())
    kinds = {line.opcode for _, line, _ in module.walk(module.entry)}
    assert ('all-gather' in kinds) == (name == 'gathered')
    assert ('reduce-scatter' in kinds) == (name == 'gathered') and 'all-reduce' not in kinds
    assert ('collective-permute' in kinds) == (name == 'ring')
