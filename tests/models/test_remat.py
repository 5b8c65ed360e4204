"""Policies of recomputation: what a block keeps, in every denoiser and tower.

That gradients stay the same is tested against diffusers (test_mmdit, test_internvl).
"""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from jaxgen.core.types import Prompt
from jaxgen.models import registry
from jaxgen.models.layers.remat import REMAT
from tests.models.rows import denoiser_inputs

# Of full size where nothing is said: nothing here is computed, only traced.
DENOISERS = {
    'mmdit': {}, 'hunyuan_video': {}, 'qwen_image': {}, 'sd3': dict(pooled_dim=2048), 'cosmos': {},
    'sana': {}, 'z_image': {}}
TEXT = dict(vocab=16, width=128, layers=3, heads=2, kv_heads=1, mlp=512)
VISION = dict(width=128, layers=3, heads=2, mlp=512)
TOWERS = {
    'internvl': VISION | dict(image_size=56, patch_size=14),
    'qwen2_5_vl': VISION | dict(patch_size=14, window=56, full_attention=(1,))}


def zeros(*sizes, dtype=jnp.float32):
  return jnp.zeros((2, *sizes), dtype)


whole = functools.partial(zeros, dtype=jnp.int32)


def inputs_of(module, length=256, words=64):
  """Inputs of a denoiser for two rows."""
  config, dim = module.config, module.pooled_dim
  return denoiser_inputs(
      zeros(length, config.in_channels), zeros(1), whole(length, 3), whole(length),
      zeros(words, config.cond_dim), whole(words, 3), whole(words),
      pooled=zeros(1, dim) if dim else None, guidance=zeros(1) if module.takes_guidance else None)


def prompt(patch_dim, length=256, patches=256):
  """A row of text and images of 16 patches."""
  tokens = whole(length)
  return Prompt(
      tokens=tokens, positions=whole(length, 3), segments=tokens, loss_mask=zeros(length),
      image_index=tokens, query_index=tokens, shown=tokens > 0, state_positions=whole(length, 3),
      patches=zeros(patches, patch_dim), patch_positions=whole(patches, 2),
      patch_images=whole(patches), maskable=whole(patches) > 0)


def kept_bytes(function, params):
  """Bytes that the backward pass of a scalar function needs, parameters apart."""
  kept = jax.eval_shape(lambda params: jax.vjp(function, params)[1], params)
  held = {leaf.shape for leaf in jax.tree.leaves(params)}
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize
             for leaf in jax.tree.leaves(kept) if leaf.shape not in held)


def assert_each_keeps_less(sizes):
  assert sizes.pop('offload') == sizes['attention']  # elsewhere
  assert list(sizes) == ['none', 'dots', 'attention', 'full']
  for more, less in zip(list(sizes)[:-1], list(sizes)[1:]):
    assert sizes[less] < 0.95 * sizes[more], sizes


@pytest.mark.parametrize('family', DENOISERS)
def test_every_denoiser_keeps_less_policy_by_policy(family):
  def kept(remat):
    module = registry.build(
        registry.section(family, **DENOISERS[family], remat=remat), jnp.float32)

    def loss(params):
      return module.apply({'params': params}, *inputs_of(module)).sum()

    return kept_bytes(loss, registry.param_shapes(module))

  assert_each_keeps_less({remat: kept(remat) for remat in REMAT})


@pytest.mark.parametrize('family, stacks', [
    ('mmdit', ('double_blocks', 'single_blocks')), ('hunyuan_video', ('single_blocks',)),
    ('qwen_image', ('layers',)), ('cosmos', ('layers',)), ('sana', ('layers',)),
    ('z_image', ('layers',))])
def test_a_deeper_denoiser_has_a_program_of_the_same_length(family, stacks):
  """So it takes no longer to compile, 42 layers or 4."""
  def equations(depth):
    module = registry.build(registry.section(
        family, **DENOISERS[family] | dict.fromkeys(stacks, depth)), jnp.float32)
    program = jax.make_jaxpr(functools.partial(registry.init, module))(jax.random.key(0))
    return str(program).count(' = ')

  assert equations(42) == equations(4) > 100


def test_what_flux_keeps_of_a_row_of_1024():
  """The numbers of docs/scaling.md, GiB."""
  def kept(remat):
    module = registry.build(registry.section(
        'mmdit', cond_dim=1536, pooled_dim=768, remat=remat), jnp.bfloat16)
    inputs = inputs_of(module, 4096, 576)
    size = kept_bytes(lambda params: module.apply({'params': params}, *inputs).sum(),
                      registry.param_shapes(module))
    return round(size / 2 / 2**30, 1)

  assert {remat: kept(remat) for remat in REMAT} == {
      'none': 22.9, 'dots': 15.8, 'attention': 9.7, 'offload': 9.7, 'full': 1.6}


@pytest.mark.parametrize('family', TOWERS)
@pytest.mark.parametrize('part', ['vision', 'text'])
def test_both_parts_of_every_language_model_keep_less_policy_by_policy(family, part):
  def kept(remat):
    sections = dict(text=dict(TEXT), vision=dict(TOWERS[family]))
    if family == 'qwen2_5_vl':
      sections['text']['rope_sections'] = (16, 8, 8)
    sections[part]['remat'] = remat
    module = registry.build(registry.section(family, **sections), jnp.float32)
    row = prompt(module.config.vision.patch_dim)

    def embedded(params):
      return module.apply({'params': params}, row, method='embed_prompt').sum()

    def decoded(params):
      positions = row.positions if family == 'qwen2_5_vl' else row.positions[..., 0]
      states = zeros(*row.tokens.shape[1:], TEXT['width'])
      return module.apply({'params': params}, states, positions, row.segments,
                          method='decode').sum()

    return kept_bytes(embedded if part == 'vision' else decoded, registry.param_shapes(module))

  assert_each_keeps_less({remat: kept(remat) for remat in REMAT})


def test_attention_and_projections_are_kept_and_hidden_units_are_not():
  module = registry.build(registry.section(
      'mmdit', width=128, heads=2, axes_dims=(16, 24, 24), double_blocks=3, single_blocks=5,
      remat='attention'), jnp.bfloat16)
  inputs = inputs_of(module, length=200, words=100)
  kept = jax.eval_shape(lambda params: jax.vjp(
      lambda params: module.apply({'params': params}, *inputs).sum(), params)[1],
                        registry.param_shapes(module))
  single = collections.Counter(
      (leaf.shape[3:], str(leaf.dtype)) for leaf in jax.tree.leaves(kept)
      if leaf.shape[:3] in ((5, 2, 300), (5, 2, 2)))
  assert single == {
      ((2, 64), 'bfloat16'): 3,  # q, k, v
      ((300, 64), 'bfloat16'): 1, ((300,), 'float32'): 1,  # attention, its softmax sums
      ((128,), 'bfloat16'): 2,  # what enters a block, what its output projection adds
  }


def test_what_is_offloaded_crosses_to_the_host_and_back():
  def crossings(remat):
    module = registry.build(registry.section(
        'mmdit', width=32, heads=2, axes_dims=(4, 6, 6), double_blocks=1, single_blocks=1,
        remat=remat), jnp.bfloat16)
    inputs = inputs_of(module, 8, 4)
    program = str(jax.make_jaxpr(jax.grad(
        lambda params: module.apply({'params': params}, *inputs).sum()))(
            registry.param_shapes(module)))
    return [program.count(f'devices=(MemorySpace.{space},)') for space in ('Host', 'Device')]

  # Attention and its sums in both blocks; q, k, v and what two projections add, of three streams,
  # of which the last has attention and MLP behind one projection.
  arrays = 2 * 2 + 3 * 5 - 1
  assert crossings('offload') == [arrays, arrays]
  assert crossings('attention') == [0, 0]
