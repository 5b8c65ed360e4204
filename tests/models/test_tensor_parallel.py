"""Heads split over devices, those that do not divide kept whole or refused; equal to one device."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.mmdit import MMDiTConfig
from jaxgen.models.encoders.causal_lm import CausalLM
from jaxgen.models.encoders.causal_lm import CausalLMConfig
from jaxgen.sharding import partition
from jaxgen.sharding import rules
from jaxgen.sharding.mesh import make_mesh
from tests.models.rows import denoiser_inputs

# What a run with such a language model says in its config.
WHOLE = rules.with_changes((('heads', ('tensor',), True),))
LENGTH = 13  # tokens of a row; odd, so that rows are never split along them


def language_model(heads):
  return CausalLM(CausalLMConfig(vocab=30, width=2 * heads, layers=2, heads=heads, kv_heads=4,
                                 mlp=48))


def denoiser(heads):
  return MMDiT(MMDiTConfig(in_channels=4, cond_dim=6, width=4 * heads, heads=heads,
                           double_blocks=1, single_blocks=1, axes_dims=(0, 2, 2)))


def inputs_of(model):
  """Two packed rows."""
  rng = np.random.default_rng(0)
  segments = np.array([[1] * 5 + [2] * 8, [1] * 3 + [2] * 6 + [0] * 4], np.int32)
  if isinstance(model, CausalLM):
    return rng.integers(0, 30, (2, LENGTH)), np.tile(np.arange(LENGTH), (2, 1)), segments
  places = np.zeros((2, LENGTH, 3), np.int32)
  latents, states = (rng.normal(size=(2, LENGTH, dim)).astype(np.float32) for dim in (4, 6))
  return denoiser_inputs(latents, np.full((2, 2), 0.3, np.float32), places, segments, states,
                         places, segments)


@functools.cache
def boxed(model):
  return jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs_of(model)))['params']


@functools.cache
def parameters(model):
  """Random ones, without the zeros of the initialisation."""
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32),
                      nn.unbox(boxed(model)))


def run(model, params):
  """Output, and gradients by the parameters."""
  def score(params):
    out = model.apply({'params': params}, *inputs_of(model))
    return jnp.sum(jnp.sin(out)), out

  return jax.value_and_grad(score, has_aux=True)(params)


@functools.cache
def on_one_device(model):
  return jax.device_get(jax.jit(functools.partial(run, model))(parameters(model)))


def spread(model, ways, table, context=1):
  """The mesh, and the parameters upon it."""
  mesh = make_mesh(ConfigDict(dict(data=1, fsdp=-1, context=context, tensor=ways)))
  axes = trees.map_named(lambda _, spec: tuple(spec), nn.get_partition_spec(boxed(model)))
  places = partition.parameter_shardings(axes, parameters(model), mesh, table)
  return mesh, jax.device_put(parameters(model), places)


@pytest.mark.parametrize('model, ways, table, whole', [
    (language_model(28), 2, rules.RULES, set()),
    (language_model(28), 4, rules.RULES, set()),
    (language_model(32), 8, rules.RULES, {'k', 'v'}),  # each device has all four key heads
    (language_model(28), 8, WHOLE, {'q', 'k', 'v', 'out'}),
    (denoiser(8), 8, WHOLE, set()),  # the same table still splits heads that divide
])
def test_split_heads_equal_one_device(model, ways, table, whole):
  mesh, params = spread(model, ways, table)
  with partition.scope(mesh, table):
    results = jax.jit(functools.partial(run, model))(params)
  for ours, one in zip(*map(jax.tree.leaves, (results, on_one_device(model))), strict=True):
    np.testing.assert_allclose(ours, one, atol=2e-5 * max(1.0, np.abs(one).max()))
  kernels = {path.split('/')[-2]: leaf for path, leaf in trees.flatten(params).items()
             if 'attention/' in path and path.endswith('kernel')}
  assert {name for name, leaf in kernels.items()
          if 'tensor' not in jax.tree.leaves(tuple(leaf.sharding.spec))} == whole
  split = [path for path, leaf in trees.flatten(params).items() if 'mlp' in path
           and 'tensor' in jax.tree.leaves(tuple(leaf.sharding.spec))]
  assert split  # hidden units are split in any case


def test_rows_that_do_not_divide_stay_whole_and_the_split_vocabulary_learns_right():
  model = language_model(28)
  mesh, params = spread(model, 2, rules.RULES, context=2)
  with partition.scope(mesh):
    _, gradients = jax.jit(functools.partial(run, model))(params)
  one = on_one_device(model)[1]['embedding']
  assert params['embedding'].sharding.spec == jax.sharding.PartitionSpec('tensor', 'fsdp')
  np.testing.assert_allclose(gradients['embedding'], one, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize('model, heads', [(language_model(28), 28), (denoiser(12), 12)])
def test_heads_that_do_not_divide_are_refused_in_one_line(model, heads):
  with pytest.raises(UserError, match=rf'config\.mesh\.tensor = 8: does not divide the heads '
                     rf'dimension \({heads}\) of .*; use a divisor of {heads}, or keep') as error:
    spread(model, 8, rules.RULES)
  assert '\n' not in str(error.value)
