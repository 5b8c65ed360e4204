"""IOMM as a composition: what the denoiser is told, masking, packing, and sizes that must fit."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.core.types import Meta
from jaxgen.data.loader import make_loader
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.models.registry import section
from jaxgen.objectives.next_token import NextToken
from jaxgen.systems import parts
from jaxgen.systems.registry import make_system


def condition(system, params, batch, rng=None):
  """``system.condition``, compiled once for each system and shape."""
  return _condition(params, batch, rng, system=system)


@functools.partial(jax.jit, static_argnames='system')
def _condition(params, batch, rng, *, system):
  return system.condition(params, batch, rng)


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
  conditioning, prompt = condition(system, params, batch), batch.prompt
  stock = system.models['mllm'].apply(
      {'params': params['mllm']}, parts.embed(system.models['mllm'], params['mllm'], batch),
      prompt.positions, prompt.segments, method='decode')
  words = (prompt.segments > 0) & (prompt.query_index < 0)
  np.testing.assert_allclose(np.asarray(conditioning.states)[words], np.asarray(stock)[words],
                             atol=1e-6)
  queries = system.layout.queries
  assert (np.sum(prompt.query_index >= 0, axis=1) == queries).all()
  for row in range(len(words)):  # 0 .. Q - 1, behind the last word
    last = np.flatnonzero(words[row]).max()
    np.testing.assert_array_equal(prompt.query_index[row, last + 1:last + 1 + queries],
                                  np.arange(queries))
  np.testing.assert_array_equal(conditioning.segments, prompt.segments)


def test_the_config_says_which_states_are_shown(made, tiny_base):
  """``queries`` alone are the MetaQuery baseline (A17)."""
  system, params, batch = made
  config = copy.deepcopy(tiny_base)
  config.data.shown = 'queries'
  only = condition(system, params, _loaded(config, system.layout).batch)
  everything = condition(system, params, batch)
  is_query = batch.prompt.query_index >= 0
  np.testing.assert_array_equal(only.segments, np.where(is_query, batch.prompt.segments, 0))
  np.testing.assert_array_equal(np.asarray(only.states), np.asarray(everything.states))


def test_queries_do_not_see_other_rows_nor_padding(made):
  system, params, batch = made
  padding = batch.prompt.segments == 0
  assert padding.any()
  scrambled = batch.replace(prompt=batch.prompt.replace(
      tokens=np.where(padding, 7, batch.prompt.tokens)))
  before, after = (condition(system, params, each) for each in (batch, scrambled))
  valid = np.asarray(before.segments) > 0
  np.testing.assert_array_equal(np.asarray(before.states)[valid], np.asarray(after.states)[valid])


@pytest.mark.parametrize('ratio', [0.85, 0.45])
def test_masking_hits_its_ratio_and_only_images_that_are_their_own_target(ratio):
  rows, length = 20, 500
  may_mask = np.zeros((rows, length), bool)
  may_mask[:, 100:] = True
  tokens = np.ones((rows, length, 3), np.float32)
  keys = jax.random.split(jax.random.key(3), rows)
  masked = np.asarray(parts.mask_image_tokens(keys, tokens, may_mask, ratio))
  hidden = (masked == 0).all(-1)
  assert ((masked == 0).any(-1) == hidden).all() and not hidden[:, :100].any()
  count = may_mask.sum()
  assert abs(hidden.sum() - ratio * count) < 3 * np.sqrt(count * ratio * (1 - ratio))
  np.testing.assert_array_equal(masked, parts.mask_image_tokens(keys, tokens, may_mask, ratio))


def test_masking_is_for_training_and_for_images_that_are_their_own_target(made):
  system, params, batch = made
  own = np.asarray(batch.prompt.maskable).any(axis=1)
  assert own.any() and not own.all()
  quiet = np.asarray(condition(system, params, batch).states)
  np.testing.assert_array_equal(quiet, condition(system, params, batch).states)
  masked = np.asarray(condition(system, params, batch, jax.random.key(1)).states)
  changed = np.abs(masked - quiet).max(axis=(1, 2)) > 1e-4
  np.testing.assert_array_equal(changed, own)
  # The mask belongs to the row, whatever batch it comes in.
  part = jax.tree.map(lambda leaf: leaf[::-1], batch)
  again = condition(system, params, part, jax.random.key(1)).states
  np.testing.assert_array_equal(masked[::-1], again)


def test_samples_packed_in_a_row_see_nothing_of_each_other(made, tiny_base):
  _, params, _ = made
  _check_packing(_of_two(tiny_base), params)


def test_z_image_sees_its_text_in_sequence_and_the_image_behind_it(tiny_base):
  config = _of_two(tiny_base)
  config.data.scheme = 'z_image'
  config.model.denoiser = ConfigDict(section(
      'z_image', in_channels=config.model.denoiser.in_channels, theta=100.0,
      cond_dim=config.model.denoiser.cond_dim, width=24, heads=2, layers=1, refiner_layers=1,
      axes_dims=(4, 4, 4)))
  params = jax.jit(make_system(config).init)(jax.random.key(0))
  params['denoiser'] = trees.map_named(
      lambda path, leaf: leaf + 0.1 * jax.random.normal(jax.random.key(len(path)), leaf.shape),
      params['denoiser'])
  conditioning, visual = _check_packing(config, params)
  for row, own in enumerate(np.asarray(conditioning.segments)):
    for segment in (1, 2):
      count = (own == segment).sum()
      np.testing.assert_array_equal(  # 1, 2, 3, ... on the first axis, the queries last
          conditioning.positions[row][own == segment, 0], np.arange(1, 1 + count))
      image = visual.positions[row][visual.segments[row] == segment]
      assert (image[:, 0] == count + 1).all()
  assert not conditioning.positions[..., 1:].any()


def _of_two(config):
  """Rows of two samples."""
  config = copy.deepcopy(config)
  config.data.update(segments_per_row=2, visual_tokens=32, prompt_tokens=88)
  config.train.rows = 4
  return config


def _check_packing(config, params):
  """Rows of two samples give each what it gets alone; returns conditioning and visual."""
  system = make_system(config)
  packed = _loaded(config, system.layout).batch
  assert (packed.meta.sample_ids >= 0).all(), 'two samples in every row'
  rng = np.random.default_rng(0)
  x_t = rng.normal(size=packed.visual.latents.shape).astype(np.float32)
  t = rng.uniform(size=(4, 2)).astype(np.float32)
  conditioning = condition(system, params, packed)
  together = denoise(params, x_t, t, packed.visual, conditioning, system=system)
  for segment in (1, 2):
    alone = jax.tree.map(np.array, packed)
    for part in (alone.prompt, alone.visual):
      part.segments[part.segments != segment] = 0
      part.segments[part.segments == segment] = 1
    meta = Meta(*(getattr(packed.meta, name)[:, segment - 1:segment]
                  for name in ('sample_ids', 'source_ids')), packed.meta.rows)
    alone = alone.replace(meta=meta)
    velocity = denoise(params, x_t, t[:, segment - 1:segment], alone.visual,
                       condition(system, params, alone), system=system)
    mine = packed.visual.segments == segment
    np.testing.assert_allclose(np.asarray(together)[mine], np.asarray(velocity)[mine], atol=1e-5)
  return conditioning, packed.visual


def test_encode_and_decode_are_inverse(made):
  system, params, _ = made
  images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  tokens = system.encode(params, images)
  assert tokens.shape == (2, 4 * 6, system.layout.latent.channels)
  np.testing.assert_array_equal(system.decode(params, tokens, (4, 6)), images)


def test_guidance_is_a_weighted_sum_of_rewritten_samples(made):
  system, _, _ = made
  sample = Sample('edit', (Part('source', image=np.zeros((4, 4, 3), np.uint8)),
                           Part('user', text='make it red'), Part('target', loss=True)))
  (full, asked), (rest, empty) = system.branches(sample, dict(text=3.0, image=1.0))
  assert (full, rest) == (3.0, -2.0) and asked is sample
  assert [part.role for part in empty.parts] == ['user', 'target']
  assert empty.texts[0].text == 'Generate an image.'
  assert system.branches(sample, dict(text=1.0, image=1.0)) == [(1.0, sample)]


def test_next_token_loss_is_cross_entropy_with_ignored_labels(tiny_base):
  config = copy.deepcopy(tiny_base)
  with config.unlocked():
    del config.data.sources.pair
  config.data.sources.image.task = 'caption'
  config.data.visual_tokens = 0
  system = make_system(config)
  params = jax.jit(system.init)(jax.random.key(0))
  batch = _loaded(config, system.layout).batch
  loss, metrics = jax.jit(functools.partial(NextToken(), system))(
      params, batch, jax.random.key(0))
  weight = NextToken().weight(batch)
  logits = np.asarray(jax.jit(lambda params, batch: system.head(
      params, system.hidden(params, batch)))(params, batch))
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


@pytest.mark.parametrize('section, field, value', [
    ('bridge', 'width', 64), ('denoiser', 'cond_dim', 64), ('denoiser', 'in_channels', 12)])
def test_sizes_that_do_not_fit_are_named(tiny_base, section, field, value):
  config = copy.deepcopy(tiny_base)
  config.model[section][field] = value
  with pytest.raises(UserError, match=rf'config\.model\.{section}\.{field} = {value}'):
    make_system(config)


def test_image_sizes_that_do_not_fit_are_named(tiny_base):
  config = copy.deepcopy(tiny_base)
  config.data.image_size = 18
  with pytest.raises(UserError, match=r'config\.data\.image_size = 18: .*multiple of 4'):
    make_system(config)
  config.data.image_size, config.data.vision_size = 16, 12
  with pytest.raises(UserError, match=r'config\.data\.vision_size = 12'):
    make_system(config)
  config.system = 'imagen'
  with pytest.raises(UserError, match="config.system = 'imagen': must be one of"):
    make_system(config)


@pytest.mark.parametrize('field, value, said', [
    ('system', 'duetgen', 'config.model.connector.family: the system duetgen needs a model there'),
    ('model.denoiser.family', 'kl', "config.model.denoiser.family = 'kl': the system iomm needs"),
    ('data.dialect', 'pirate', "config.data.dialect = 'pirate': use one of plain, llama"),
    ('data.scheme', 'spiral', "config.data.scheme = 'spiral': use one of flux, z_image")])
def test_names_that_do_not_fit_the_system_are_refused(tiny_base, field, value, said):
  config = copy.deepcopy(tiny_base)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError) as caught:
    make_system(config)
  assert str(caught.value).startswith(said)


def test_time_reaches_the_denoiser_in_full_precision_under_bfloat16(made, tiny_base):
  """t = 0.7501 and 0.7502 are one number in bfloat16, but must not be one embedding (F22)."""
  _, params, batch = made
  config = copy.deepcopy(tiny_base)
  config.model.compute_dtype = 'bfloat16'
  system = make_system(config)
  assert jnp.bfloat16(0.7501) == jnp.bfloat16(0.7502)
  conditioning = condition(system, params, batch)
  x_t = np.ones_like(batch.visual.latents)

  def at(t):
    return denoise(params, x_t, jnp.full((8, 1), t), batch.visual, conditioning, system=system)

  params = trees.map_named(
      lambda path, leaf: leaf * (1e3 if path.startswith('denoiser/time') else 1), params)
  assert not np.array_equal(at(0.7501), at(0.7502))
