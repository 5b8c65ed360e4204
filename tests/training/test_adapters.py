"""Adapters merged on load: the next stage starts from the same model without them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.checkpoints.adopt import adopt
from jaxgen.checkpoints.checkpoint import Checkpoints
from jaxgen.checkpoints.weights import open_weights
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import base_config
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.layers import lora
from jaxgen.models.layers.lora import LoRA
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.training.adapters import Merged
from jaxgen.training.adapters import _adder
from jaxgen.training.adapters import merge_on_load

MODULE = registry.build(registry.section(
    'llama', vocab=64, width=32, layers=2, heads=4, kv_heads=2, mlp=48), jnp.float32)
GROUPS = (LoRA('mllm/decoder/layers/attention/(q|v|out)', 3, 6.0),
          LoRA('mllm/decoder/layers/mlp/.*', 2, 5.0))
MERGE = (('mllm/.*/lora/.*', 'merge'),)
QUERY = 'mllm/decoder/layers/attention/q'
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 7)).astype(np.int32)


@functools.cache
def model():
  """``(params with trained adapters, axes without adapters)`` of one group."""
  @jax.jit
  def init(rng):
    return nn.meta.unbox(lora.attach({'mllm': registry.init(MODULE, rng)['params']}, rng, GROUPS))

  rng = np.random.default_rng(1)
  params = trees.map_named(lambda path, leaf: np.asarray(
      0.3 * rng.normal(size=leaf.shape) if path.endswith('/b') else leaf, np.float32),
                           init(jax.random.key(0)))
  return params, {'mllm': registry.param_axes(MODULE)}


@jax.jit
def states(params):
  ones = jnp.ones_like(TOKENS)
  embeddings = MODULE.apply({'params': params['mllm']}, TOKENS, method='embed')
  return MODULE.apply({'params': params['mllm']}, embeddings, jnp.cumsum(ones, axis=1) - 1, ones,
                      method='decode')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """The model as a weights folder, as a run's workdir, and without adapters."""
  root, (params, _) = tmp_path_factory.mktemp('adapters'), model()
  save_weights(str(root / 'weights'), params, '{}')
  save_weights(str(root / 'plain'), lora.merge(params), '{}')
  trains = {path: path.endswith(('/a', '/b')) for path in trees.flatten(params)}
  moving, frozen = (jax.tree.map(jnp.asarray, part) for part in trees.partition(params, trains))
  (root / 'run').mkdir()
  (root / 'run/config.json').write_text('{}')
  checkpoints = Checkpoints(root / 'run', keep=1)
  checkpoints.save_frozen(frozen)
  checkpoints.save(1, {'params': jax.tree.map(jnp.zeros_like, moving), 'ema': moving},
                   np.zeros((1, 1), np.int64))
  checkpoints.close()
  return root


def placed(tree, dtype, **sizes):
  """What ``init_state`` puts on eight devices: every parameter by its logical axes."""
  config = base_config()
  config.mesh.update(sizes)
  where = partition.parameter_shardings(model()[1], registry_shapes(), make_mesh(config.mesh))
  return trees.map_named(lambda path, leaf, goal: leaf.onto(goal, np.dtype(dtype)), tree, where)


def registry_shapes():
  return {'mllm': registry.param_shapes(MODULE)}


def loaded(folder, changes=MERGE):
  """The group as a model without adapters gets it, not read yet."""
  tree, merged = merge_on_load(open_weights(str(folder), ['mllm']), changes, 'somewhere')
  return *adopt(tree, registry_shapes(), changes, 'somewhere'), merged


@pytest.mark.parametrize('kind, sizes', [
    ('weights', dict(data=2, fsdp=4)), ('run', dict(fsdp=4, tensor=2))])
def test_the_merged_model_gives_the_outputs_of_the_adapted_one(folders, kind, sizes):
  tree, report, merged = loaded(folders / kind)
  assert merged == sorted(f'mllm/decoder/layers/{name}' for name in (
      'attention/q', 'attention/v', 'attention/out', 'mlp/down', 'mlp/gate', 'mlp/up'))
  assert not report['dropped'] and not report['reinitialised']
  params, (adapted, axes) = placed(tree, 'float32', **sizes), model()
  assert trees.flatten(params).keys() == trees.flatten(axes).keys()
  expected = states(adapted)
  assert np.abs(states(jax.device_get(params)) - expected).max() < 1e-5
  assert np.abs(states(lora.split(adapted)[0]) - expected).max() > 0.1


def test_a_kernel_in_bfloat16_is_rounded_once(folders):
  tree, *_ = loaded(folders / 'weights')
  kernels = trees.flatten(placed(tree, 'bfloat16', fsdp=4, tensor=2))
  for path, whole in trees.flatten(lora.merge(model()[0])).items():
    assert kernels[path].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(kernels[path], np.float32), whole, rtol=2**-8, atol=1e-7)
  stored = np.asarray(trees.flatten(tree)[f'{QUERY}/kernel'], jnp.bfloat16)
  np.testing.assert_array_equal(stored, kernels[f'{QUERY}/kernel'])


def test_shards_are_added_where_they_lie_one_layer_after_another():
  """No collective, and beside the shard no more memory than two of its layers."""
  config = base_config()
  config.mesh.update(fsdp=4, tensor=2)
  mesh, spec = make_mesh(config.mesh), jax.sharding.PartitionSpec
  specs = (spec(None, 'fsdp', 'tensor'), spec(None, 'fsdp', None), spec(None, None, 'tensor'),
           spec(None))
  shapes = ((16, 512, 256), (16, 512, 8), (16, 8, 256), (16,))
  program = _adder(mesh, specs, np.dtype('float32')).lower(*(
      jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.sharding.NamedSharding(mesh, spec))
      for shape, spec in zip(shapes, specs))).compile()
  assert not any(word in program.as_text() for word in ('all-gather', 'all-reduce', 'all-to-all'))
  layer = 4 * (512 // 4) * (256 // 2)
  assert program.memory_analysis().temp_size_in_bytes < 3 * layer


def test_without_the_rule_adapters_are_unknown(folders):
  with pytest.raises(UserError, match=f'18 unknown: .*{QUERY}/lora/a'):
    loaded(folders / 'weights', ())


def test_a_model_with_adapters_of_its_own_gets_new_ones(folders):
  tree, merged = merge_on_load(open_weights(str(folders / 'weights'), ['mllm']), MERGE, 'here')
  tree, report = adopt(tree, model()[0], MERGE, 'here')
  assert f'{QUERY}/lora/a' in report['reinitialised']
  assert isinstance(trees.flatten(tree)[f'{QUERY}/kernel'], Merged) and len(merged) == 6


@pytest.mark.parametrize('pattern, text', [
    ('mllm/.*', "attention/k/bias': is no adapter"),
    ('mllm/.*/lora/[ab]', "out/lora/alpha': has no 'merge' rule"),
])
def test_rules_that_do_not_name_whole_adapters(folders, pattern, text):
  with pytest.raises(UserError) as caught:
    loaded(folders / 'weights', ((pattern, 'merge'),))
  assert text in str(caught.value) and '\n' not in str(caught.value)
