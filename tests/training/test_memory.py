"""What a step holds: its state is donated, and moments and EMA may lie in the host's memory."""

import copy
import functools
import re
import shutil
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models.layers import quantized
from jaxgen.sharding.memory import HOST
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.loop import train
from jaxgen.training.state import check_memory
from jaxgen.training.state import init_params
from jaxgen.training.state import make_blueprint
from tests.training.launched import metrics_of
from tests.training.test_resume import restored
from tests.training.test_step import Bench


@pytest.fixture(scope='module')
def after_a_step(tiny_base):
  """Memory of moments -> (bench, compiled step, state before and after, as it lies)."""
  def run(where):
    config = copy.deepcopy(tiny_base)
    config.mesh.update(data=4, fsdp=2)
    config.optimizer.memory = where
    bench = Bench(config, make_mesh(config.mesh))
    before, frozen = bench.begin()
    compiled = bench.step.lower(before, frozen, bench.batch()).compile()
    after, _ = compiled(before, frozen, bench.batch())
    return bench, compiled, before, after

  return {where: run(where) for where in ('device', 'host')}


def kinds_of(tree):
  return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize('where', ['device', 'host'])
def test_the_whole_state_is_donated(after_a_step, where):
  bench, compiled, before, after = after_a_step[where]
  leaves = jax.tree.leaves(bench.blueprint.state)
  aliases = re.search(r'input_output_alias=\{(.*?)\}, entry', compiled.as_text())[1]
  pairs = re.findall(r'\{(\d+)\}: \((\d+), \{\}', aliases)
  assert [(int(out), int(given)) for out, given in pairs] == [
      (index, index) for index in range(len(leaves))]
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_moments_and_ema_lie_on_the_host_and_nothing_else_does(after_a_step):
  for state in after_a_step['host'][2:]:
    assert kinds_of((state.opt_state, state.ema)) == {HOST}
    assert kinds_of((state.params, state.step, state.rng)) == {'device'}
  assert kinds_of(after_a_step['device'][3]) == {'device'}


def test_a_step_computes_the_same_wherever_they_lie(after_a_step):
  ours, theirs = (jax.device_get(after_a_step[where][3]) for where in ('host', 'device'))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert int(ours.step) == 1


@pytest.mark.parametrize('field, value', [('optimizer.memory', 'host'),
                                          ('model.mllm.text.remat', 'offload')])
def test_devices_without_such_memory_are_named(tiny_config, field, value):
  section, _, name = field.rpartition('.')
  functools.reduce(lambda node, key: node[key], section.split('.'), tiny_config)[name] = value
  device = types.SimpleNamespace(
      device_kind='Lone chip', addressable_memories=lambda: [types.SimpleNamespace(kind='device')])
  mesh = types.SimpleNamespace(devices=np.array([device]))
  with pytest.raises(UserError, match=rf'config\.{field} = .{value}.: needs the memory kind '
                     'pinned_host; a Lone chip has device only'):
    check_memory(tiny_config, mesh)


def test_half_moments_on_the_host_and_an_encoder_of_eight_bits_resume_exactly(
    straight, tiny_base, tmp_path):
  """All levers at once: near the run without any, and the same bits after a break."""
  config = copy.deepcopy(tiny_base)
  config.optimizer.update(memory='host', moments_dtype='bfloat16')
  config.model.quantized = (('mllm/text/.*', 'int8'),)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  train(config, str(whole))
  shutil.copytree(whole, broken)
  shutil.rmtree(broken / 'checkpoints' / '20')
  train(config, str(broken))
  (state, stored), _ = restored(whole, 20)
  jax.tree.map(np.testing.assert_array_equal, (state, stored), restored(broken, 20)[0])
  moments = state.opt_state[1][0]
  assert {str(leaf.dtype) for leaf in jax.tree.leaves((moments.mu, moments.nu))} == {'bfloat16'}
  # What is saved is what other runs and tools can read.
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(stored)} == {'float32'}
  ours, theirs = (np.array([line['loss'] for line in metrics_of(run, 'loss')])
                  for run in (whole, straight))
  np.testing.assert_allclose(ours, theirs, rtol=5e-3)
  assert np.any(ours != theirs)


def test_kernels_that_train_cannot_have_eight_bits(tiny_config):
  tiny_config.model.quantized = (('(mllm|denoiser)/.*', 'int8'),)
  system = make_system(tiny_config)
  with pytest.raises(UserError, match=r'config\.model\.quantized = .denoiser/.*: this parameter '
                     'trains') as error:
    make_blueprint(tiny_config, system, system.groups, make_mesh(tiny_config.mesh))
  assert '\n' not in str(error.value)


def test_an_encoder_of_eight_bits_lies_on_its_mesh_and_takes_a_quarter(tiny_config):
  tiny_config.mesh.update(data=1, fsdp=4, tensor=2)
  tiny_config.model.quantized = (('mllm/.*', 'int8'),)
  system = make_system(tiny_config)
  blueprint = make_blueprint(tiny_config, system, ('mllm', 'bridge', 'denoiser'),
                             make_mesh(tiny_config.mesh))
  stored, frozen = (trees.flatten(tree) for tree in (blueprint.stored, blueprint.frozen))
  q = 'mllm/text/decoder/layers/attention/q/kernel'
  assert stored[q].sharding.spec == frozen[q].sharding.spec and str(frozen[q].dtype) == 'int8'
  assert frozen[f'{q}_scale'].sharding.spec == PartitionSpec(None, 'tensor', None)
  kernels = [path for path in frozen if f'{path}_scale' in frozen]
  assert sum(frozen[path].size * frozen[path].dtype.itemsize for path in kernels) * 4 == sum(
      stored[path].size * stored[path].dtype.itemsize for path in kernels)


def test_a_base_of_eight_bits_never_lies_on_the_devices_as_a_whole(tiny_config, monkeypatch):
  """Not when it is read, and one kernel at a time when it is quantised."""
  tiny_config.model.mllm.text.mlp = 256
  tiny_config.model.quantized = (('mllm/.*', 'int8'),)
  system, quantize, held = make_system(tiny_config), quantized.quantize, []

  def on_devices():
    return sum(leaf.nbytes for leaf in jax.live_arrays() if leaf.sharding.memory_kind == 'device')

  def observed(params, **options):
    held.append(on_devices() - before)
    return quantize(params, **options)

  before = on_devices()
  monkeypatch.setattr(quantized, 'quantize', observed)
  blueprint = make_blueprint(tiny_config, system, ('mllm', 'bridge'), make_mesh(tiny_config.mesh))
  rng = np.random.default_rng(0)
  weights = trees.map_named(lambda _, leaf: rng.normal(size=leaf.shape).astype(np.float32),
                            system.shapes(('mllm',)))
  stored = init_params(tiny_config, system, blueprint.stored, weights)
  assert kinds_of(stored) == {HOST} and on_devices() == before
  jax.tree.map(np.testing.assert_array_equal, stored, weights)
  held.clear()
  frozen = blueprint.quantize(stored)
  sizes = [leaf.nbytes for leaf in jax.tree.leaves(stored)]
  small = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen))
  assert len(held) > 10 and max(held) <= small + max(sizes) < 0.7 * sum(sizes)
  assert kinds_of(frozen) == {'device'}
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), frozen) == jax.tree.map(
      lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), blueprint.frozen)
