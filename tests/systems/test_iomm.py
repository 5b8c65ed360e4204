"""IOMM as a composition: what the denoiser is told, masking, packing, and sizes that must fit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.objectives.next_token import NextToken
from jaxgen.models.registry import section
from jaxgen.systems.registry import make_system


def condition(system, params, prompt, rng=None):
  """``system.condition``, compiled once for each system and shape."""
  return _condition(params, prompt, rng, system=system)


@functools.partial(jax.jit, static_argnames='system')
def _condition(params, prompt, rng, *, system):
  return system.condition(params, prompt, rng)


@functools.partial(jax.jit, static_argnames='system')
def denoise(params, x_t, t, visual, conditioning, *, system):
  return system.denoise(params, x_t, t, visual, conditioning)


def _loaded(config, layout):
  loader = make_loader(config, layout)
  try:
    return next(loader)
  finally:
    loader.close()


@pytest.fixture(scope='module')
def made(tiny_base):
  """The tiny system, random parameters with queries that matter, and a batch of both tasks."""
  system = make_system(tiny_base)
  params = jax.jit(system.init)(jax.random.key(0))
  params = trees.map_named(  # zero-initialised layers would hide what a test looks for
      lambda path, leaf: leaf + 0.02 * jax.random.normal(jax.random.key(len(path)), leaf.shape),
      params)
  return system, params, _loaded(tiny_base, system.layout).batch


def test_prompt_states_are_those_of_the_stock_mllm(made):
  """The queries stand behind the prompt, so a causal model's states before them are its own."""
  system, params, batch = made
  conditioning = condition(system, params, batch.prompt)
  prompt = batch.prompt
  stock = system.mllm.apply(
      {'params': params['mllm']}, system._embed(params['mllm'], prompt, None),
      prompt.positions[..., 0], prompt.segments, method='decode')
  length, queries = prompt.tokens.shape[1], system.bridge.config.queries
  assert conditioning.states.shape[1] == length + queries
  np.testing.assert_allclose(conditioning.states[:, :length], stock, atol=1e-6)
  only = condition(dataclasses.replace(system, queries_only=True), params, prompt)
  np.testing.assert_array_equal(only.states, conditioning.states[:, length:])
  assert (np.asarray(only.segments) == 1).all()


def test_queries_do_not_see_other_rows_nor_padding(made):
  system, params, batch = made
  padding = batch.prompt.segments == 0
  assert padding.any()
  scrambled = batch.prompt.replace(tokens=np.where(padding, 7, batch.prompt.tokens))
  before, after = (condition(system, params, prompt) for prompt in (batch.prompt, scrambled))
  valid = np.asarray(before.segments) > 0
  np.testing.assert_array_equal(np.asarray(before.states)[valid], np.asarray(after.states)[valid])


def test_masking_is_for_training_and_for_images_that_are_their_own_target(made):
  system, params, batch = made
  own = np.asarray(batch.prompt.patch_is_target).any(axis=1)
  assert own.any() and not own.all()
  quiet = np.asarray(condition(system, params, batch.prompt).states)
  np.testing.assert_array_equal(quiet, condition(system, params, batch.prompt).states)
  masked = np.asarray(condition(system, params, batch.prompt, jax.random.key(1)).states)
  changed = np.abs(masked - quiet).max(axis=(1, 2)) > 1e-4
  np.testing.assert_array_equal(changed, own)
  again = condition(system, params, batch.prompt, jax.random.key(1)).states
  np.testing.assert_array_equal(masked, again)


def test_samples_packed_in_a_row_see_nothing_of_each_other(made, tiny_base):
  config = tiny_base.copy_and_resolve_references()
  config.data.update(segments_per_row=2, visual_tokens=32, prompt_tokens=80)
  config.train.rows = 4
  _, params, _ = made
  _check_packing(config, params)


def test_z_image_sees_its_text_in_sequence_and_the_image_behind_it(tiny_base):
  config = tiny_base.copy_and_resolve_references()
  config.data.update(segments_per_row=2, visual_tokens=32, prompt_tokens=80)
  config.train.rows = 4
  config.model.denoiser = ConfigDict(section(
      'z_image', in_channels=config.model.denoiser.in_channels, theta=100.0,
      cond_dim=config.model.denoiser.cond_dim, width=24, heads=2, layers=1, refiner_layers=1,
      axes_dims=(4, 4, 4)))
  params = jax.jit(make_system(config).init)(jax.random.key(0))
  params['denoiser'] = trees.map_named(
      lambda path, leaf: leaf + 0.1 * jax.random.normal(jax.random.key(len(path)), leaf.shape),
      params['denoiser'])
  conditioning = _check_packing(config, params)
  for row, own in zip(np.asarray(conditioning.positions), np.asarray(conditioning.segments)):
    for segment in (1, 2):
      np.testing.assert_array_equal(  # 1, 2, 3, ... on the first axis, the queries last
          row[own == segment, 0], np.arange(1, 1 + (own == segment).sum()))
  assert not conditioning.positions[..., 1:].any()


def _check_packing(config, params):
  """Rows of two samples give each what it gets alone; returns their conditioning."""
  packed_system = make_system(config)
  packed = _loaded(config, packed_system.layout).batch
  assert (packed.meta.sample_ids >= 0).all(), 'two samples in every row'
  rng = np.random.default_rng(0)
  x_t = rng.normal(size=packed.visual.latents.shape).astype(np.float32)
  t = rng.uniform(size=(4, 2)).astype(np.float32)
  conditioning = condition(packed_system, params, packed.prompt)
  together = denoise(params, x_t, t, packed.visual, conditioning, system=packed_system)
  single = dataclasses.replace(packed_system, segments_per_row=1)
  for segment in (1, 2):
    prompt, visual = (jax.tree.map(np.array, part) for part in (packed.prompt, packed.visual))
    for part in (prompt, visual):
      part.segments[part.segments != segment] = 0
      part.segments[part.segments == segment] = 1
    alone = denoise(params, x_t, t[:, segment - 1:segment], visual,
                    condition(single, params, prompt), system=single)
    mine = packed.visual.segments == segment
    np.testing.assert_allclose(np.asarray(together)[mine], np.asarray(alone)[mine], atol=1e-5)
  return conditioning


def test_encode_and_decode_are_inverse(made):
  system, params, _ = made
  images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  tokens = system.encode(params, images)
  assert tokens.shape == (2, 4 * 6, system.layout.latent_channels)
  np.testing.assert_array_equal(system.decode(params, tokens, (4, 6)), images)


def test_next_token_loss_is_cross_entropy_with_ignored_labels(tiny_base):
  config = tiny_base.copy_and_resolve_references()
  with config.unlocked():
    del config.data.sources.pair
  config.data.sources.image.task = 'caption'
  config.data.visual_tokens = 0
  system = make_system(config)
  params = jax.jit(system.init)(jax.random.key(0))
  batch = _loaded(config, system.layout).batch
  loss, weight, metrics = jax.jit(functools.partial(NextToken(), system))(
      params, batch, jax.random.key(0))
  logits = np.asarray(jax.jit(system.next_token_logits)(params, batch.prompt))
  labels = np.where(batch.prompt.loss_mask > 0, batch.prompt.tokens, -100)
  expected = torch.nn.functional.cross_entropy(
      torch.tensor(logits[:, :-1]).flatten(0, 1), torch.tensor(labels[:, 1:]).flatten().long(),
      ignore_index=-100)
  assert float(weight) == (labels != -100).sum() > 0
  np.testing.assert_allclose(loss / weight, expected.item(), rtol=1e-5)
  correct, count = metrics['token_accuracy']
  assert 0 <= float(correct) <= float(count) == float(weight)


def test_a_group_starts_the_same_whatever_else_is_made(made):
  system, _, _ = made
  all_groups = jax.jit(system.init)(jax.random.key(5))
  alone = jax.jit(lambda key: system.init(key, ('bridge',)))(jax.random.key(5))
  assert list(alone) == ['bridge']
  jax.tree.map(np.testing.assert_array_equal, alone['bridge'], all_groups['bridge'])
  assert trees.flatten(system.axes()).keys() == trees.flatten(system.shapes()).keys()
  for path, names in trees.flatten(system.axes()).items():
    assert len(names) == trees.flatten(system.shapes())[path].ndim, path


@pytest.mark.parametrize('section, field, value', [
    ('bridge', 'width', 64), ('denoiser', 'cond_dim', 64), ('denoiser', 'in_channels', 12)])
def test_sizes_that_do_not_fit_are_named(tiny_base, section, field, value):
  config = tiny_base.copy_and_resolve_references()
  config.model[section][field] = value
  with pytest.raises(UserError, match=rf'config\.model\.{section}\.{field} = {value}'):
    make_system(config)


def test_image_sizes_that_do_not_fit_are_named(tiny_base):
  config = tiny_base.copy_and_resolve_references()
  config.data.image_size = 18
  with pytest.raises(UserError, match=r'config\.data\.image_size = 18: .*multiple of 4'):
    make_system(config)
  config.data.image_size, config.data.vision_size = 16, 12
  with pytest.raises(UserError, match=r'config\.data\.vision_size = 12'):
    make_system(config)
  config.system = 'imagen'
  with pytest.raises(UserError, match="config.system = 'imagen': must be one of"):
    make_system(config)


def test_time_reaches_the_denoiser_in_full_precision_under_bfloat16(made, tiny_base):
  """t = 0.7501 and 0.7502 are one number in bfloat16, but must not be one embedding (F22)."""
  _, params, batch = made
  config = tiny_base.copy_and_resolve_references()
  config.model.compute_dtype = 'bfloat16'
  system = make_system(config)
  assert jnp.bfloat16(0.7501) == jnp.bfloat16(0.7502)
  conditioning = condition(system, params, batch.prompt)
  x_t = np.ones_like(batch.visual.latents)

  def at(t):
    return denoise(params, x_t, jnp.full((8, 1), t), batch.visual, conditioning, system=system)

  params = trees.map_named(
      lambda path, leaf: leaf * (1e3 if path.startswith('denoiser/time') else 1), params)
  assert not np.array_equal(at(0.7501), at(0.7502))
