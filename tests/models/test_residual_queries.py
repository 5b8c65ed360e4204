"""The residual query adapter: its size, its segments, its start, its export."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.conversion import engine
from jaxgen.conversion.tables import adapter
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models.bridges.residual_queries import ResidualQueries
from jaxgen.models.bridges.residual_queries import ResidualQueriesConfig

CONFIG = ResidualQueriesConfig(width=16, queries=3, heads=2)


def init_shapes(config):
  return nn.unbox(jax.eval_shape(
      lambda key: ResidualQueries(config).init(key, *ResidualQueries(config).example()),
      jax.random.key(0)))['params']


@functools.cache
def random_params():
  rng = np.random.default_rng(0)
  return trees.map_named(lambda _, leaf: rng.normal(size=leaf.shape).astype(np.float32),
                         init_shapes(CONFIG))


@functools.partial(jax.jit, static_argnums=3)
def apply(params, states, segments, groups):
  return ResidualQueries(CONFIG).apply({'params': params}, states, segments, groups)


def test_size_at_the_width_of_the_paper():
  shapes = init_shapes(ResidualQueriesConfig(width=1536))
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  d = 1536
  weights = 4 * d**2 + 8 * d**2 + 256 * d
  assert abs(total - weights) < 0.001 * weights  # biases and norms
  assert round(total / 1e6, 1) == 28.7


def test_queries_read_their_own_segment_only():
  rng = np.random.default_rng(1)
  states = rng.normal(size=(1, 6, 16)).astype(np.float32)
  packed = apply(random_params(), states, np.array([[1, 1, 2, 2, 2, 0]], np.int32), 2)
  assert packed.shape == (1, 2, CONFIG.queries, 16)
  for group, span in enumerate((slice(0, 2), slice(2, 5))):
    alone = apply(random_params(), states[:, span], np.ones_like(states[:, span, 0], np.int32), 1)
    np.testing.assert_allclose(packed[:, group], alone[:, 0], atol=1e-5)
  assert np.abs(packed[:, 0] - packed[:, 1]).max() > 1e-2


def test_tokens_without_a_segment_are_not_seen():
  """The places where the queries themselves are to stand."""
  states = np.random.default_rng(3).normal(size=(1, 6, 16)).astype(np.float32)
  segments = np.array([[1, 1, 0, 2, 2, 0]], np.int32)
  changed = np.where(segments[..., None] == 0, 9, states).astype(np.float32)
  np.testing.assert_array_equal(apply(random_params(), states, segments, 2),
                                apply(random_params(), changed, segments, 2))


def test_absent_segments_are_finite_and_free_of_others():
  states = np.random.default_rng(2).normal(size=(1, 4, 16)).astype(np.float32)
  segments = np.array([[1, 1, 1, 0]], np.int32)
  one = np.asarray(apply(random_params(), states, segments, 2))
  two = np.asarray(apply(random_params(), states[..., ::-1], segments, 2))
  assert np.isfinite(one).all()
  assert np.abs(one[:, 0] - two[:, 0]).max() > 1e-2
  np.testing.assert_array_equal(one[:, 1], two[:, 1])


def test_fresh_adapter_starts_with_a_silent_mlp():
  states = jax.random.normal(jax.random.key(1), (1, 4, 16))
  init = jax.jit(ResidualQueries(CONFIG).init, static_argnums=3)
  params = nn.unbox(init(jax.random.key(0), states, jnp.ones((1, 4), jnp.int32), 1))['params']
  assert not params['mlp']['down']['kernel'].any()
  assert 0.01 < params['queries'].std() < 0.03
  louder = dict(params, mlp=dict(params['mlp'], up=jax.tree.map(
      lambda leaf: leaf + 5, params['mlp']['up'])))
  segments = jnp.ones((1, 4), jnp.int32)
  np.testing.assert_array_equal(apply(params, states, segments, 1),
                                apply(louder, states, segments, 1))


def test_export_and_import_are_inverse():
  tensors = engine.to_torch(adapter.RULES, random_params())
  assert tensors['attention.q.weight'].shape == (16, 16)
  assert tensors['mlp.up.weight'].shape == (64, 16)
  again = trees.flatten(engine.from_torch(adapter.RULES, tensors, random_params()))
  for path, leaf in trees.flatten(random_params()).items():
    np.testing.assert_array_equal(again[path], leaf, err_msg=path)


def test_sizes_that_do_not_fit_are_named():
  with pytest.raises(UserError, match='bridge.heads'):
    ResidualQueriesConfig(width=16, heads=3)
