"""THE train step on meshes, in micro-batches, over bad batches, with frozen parameters and EMA."""

import copy
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config import source
from jaxgen.config import validate
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import AXES
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.latents import global_batch
from jaxgen.training.latents import make_encoder
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step
from jaxgen.training.step import micro_batches

MESHES = {'one device': dict(data=1), '8': dict(data=8), '4x2': dict(data=4, fsdp=2),
          '2x2x2': dict(data=2, fsdp=2, tensor=2), 'gathered keys': dict(data=2, context=4),
          'ring': dict(data=2, context=4, rules=(('keys', ('context',), True),))}


@dataclasses.dataclass
class Bench:
  """A compiled step with fresh states and one real batch."""

  config: object
  mesh: jax.sharding.Mesh

  def __post_init__(self):
    config = self.config
    self.system, objectives = make_system(config), make_objectives(config)
    self.rows = partition.row_sharding(self.mesh, config.train.rows, config.train.accumulate)
    self.blueprint = make_blueprint(config, self.system, needed_groups(self.system, objectives), self.mesh)
    self.step = compile_step(make_train_step(config, self.system, objectives,
                                             self.blueprint.optimizer), self.blueprint, self.rows)
    loader = make_loader(config, self.system.layout)
    _, frozen = self.begin()
    encoder = make_encoder(config, self.system, frozen, loader, self.rows)
    self.host_batch = jax.device_get(
        global_batch(next(loader), encoder, self.rows, config.train.rows))
    loader.close()

  def begin(self):
    return init_state(self.config, self.system, self.blueprint, {})

  def batch(self, change=lambda batch: batch):
    return partition.to_global(change(self.host_batch), self.rows, self.config.train.rows)


@pytest.fixture(scope='module')
def bench(tiny_base):
  @functools.cache
  def make(name):
    config = copy.deepcopy(tiny_base)
    config.mesh.update(MESHES[name])
    count = int(np.prod([config.mesh[axis] for axis in AXES]))
    return Bench(config, make_mesh(config.mesh, jax.devices()[:count]))
  return make


def run_once(bench):
  state, frozen = bench.begin()
  state, metrics = bench.step(state, frozen, bench.batch())
  return jax.device_get((state, metrics))


def momenta(state):
  """AdamW's first moment after one step: the clipped gradient times 1 - b1."""
  return state.opt_state[1][0].mu


@pytest.mark.parametrize('name', ['8', '4x2', '2x2x2', 'gathered keys', 'ring'])
def test_losses_and_gradients_on_a_mesh_equal_one_device(bench, name):
  whole_state, whole = run_once(bench('one device'))
  state, metrics = run_once(bench(name))
  np.testing.assert_allclose(metrics['loss'], whole['loss'], rtol=1e-5)
  np.testing.assert_allclose(metrics['grad_norm'], whole['grad_norm'], rtol=1e-5)
  np.testing.assert_array_equal(metrics['sample_ids'], whole['sample_ids'])
  ours, theirs = trees.flatten(momenta(state)), trees.flatten(momenta(whole_state))
  assert ours.keys() == theirs.keys()
  for path, leaf in theirs.items():
    np.testing.assert_allclose(ours[path], leaf, atol=1e-5 * np.abs(leaf).max(), err_msg=path)


@pytest.mark.parametrize('divisions', [
    ((1, 1), (2, 4), (8, 2)),
    pytest.param(tuple(itertools.product((1, 2, 8), (1, 2, 4))), marks=pytest.mark.slow)],
                         ids=['three', 'all'])
def test_devices_and_micro_batches_change_no_loss(tiny_base, divisions):
  """Noise, timesteps and masks are keyed by row: 1, 2, 8 devices x 1, 2, 4 micro-batches."""
  found = {}
  for devices, accumulate in divisions:
    config = copy.deepcopy(tiny_base)
    config.train.update(rows=32, accumulate=accumulate)
    config.mesh.data = devices
    config.model.denoiser.update(double_blocks=1, single_blocks=1)
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    _, metrics = run_once(Bench(config, mesh))
    found[devices, accumulate] = (float(metrics['loss']), float(metrics['grad_norm']))
  for name, values in found.items():
    np.testing.assert_allclose(values, found[1, 1], rtol=1e-5, err_msg=str(name))


def test_parameters_are_really_spread(bench):
  state, _ = bench('2x2x2').begin()
  kernels = {path: leaf for path, leaf in trees.flatten(state.params).items()
             if 'mlp' in path and path.endswith('kernel')}
  assert kernels
  for path, leaf in kernels.items():
    assert leaf.addressable_shards[0].data.size == leaf.size // 4, path


def test_moments_and_moving_average_lie_where_their_parameters_do(bench):
  """From the start and after a step; none of them is ever whole on a device."""
  bench = bench('2x2x2')
  state, frozen = bench.begin()
  after, _ = bench.step(state, frozen, bench.batch())
  for each in (bench.begin()[0], after):
    places = [leaf.sharding for leaf in jax.tree.leaves(each.params)]
    for tree in (each.params, each.ema, momenta(each), each.opt_state[1][0].nu):
      assert [leaf.sharding for leaf in jax.tree.leaves(tree)] == places
      kernel = trees.flatten(tree)['denoiser/single_blocks/mlp_up/kernel']
      assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 4}


def losses(bench, steps):
  """Of a few steps on the same batch."""
  state, frozen = bench.begin()
  found = []
  for _ in range(steps):
    state, metrics = bench.step(state, frozen, bench.batch())
    found.append(float(metrics['loss']))
  return found


@pytest.mark.slow
def test_steps_in_floats_of_eight_bits_stay_near_and_leave_the_state_as_it_is(bench, tiny_base):
  theirs, config = bench('2x2x2'), copy.deepcopy(tiny_base)
  config.model.update(compute_dtype='bfloat16', fp8=True)
  config.mesh.update(MESHES['2x2x2'])
  ours = Bench(config, theirs.mesh)
  assert ours.blueprint.state == theirs.blueprint.state  # shapes, dtypes and shardings
  near, exact = losses(ours, 6), losses(theirs, 6)
  learned = exact[0] - exact[-1]
  np.testing.assert_allclose(near, exact, rtol=0, atol=0.2 * learned)
  assert learned > 0 and near[-1] != exact[-1]


def test_eight_bits_need_a_computation_in_sixteen(tiny_config):
  tiny_config.model.fp8 = True
  with pytest.raises(UserError, match=r'config\.model\.compute_dtype = .float32.: model\.fp8'):
    validate(tiny_config)


def test_five_steps_leave_frozen_bits_alone_and_ema_has_its_closed_form(bench):
  bench = bench('8')
  state, frozen = bench.begin()
  before = jax.device_get(frozen)
  history = [jax.device_get(state.params)]
  for _ in range(5):
    state, _ = bench.step(state, frozen, bench.batch())
    history.append(jax.device_get(state.params))
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(frozen))
  assert int(state.step) == 5
  # 0.9^5 p0 + 0.1 sum_k 0.9^(5 - k) pk
  expected = jax.tree.map(
      lambda *p: 0.9**5 * p[0] + 0.1 * sum(0.9**(5 - k) * p[k] for k in range(1, 6)), *history)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, expected)
  moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (history[0], history[5])))]
  assert max(moved) > 1e-3


def test_frozen_parameters_have_no_optimizer_state(bench):
  blueprint = bench('8').blueprint
  assert all(path.startswith('mllm/') for path in trees.flatten(blueprint.frozen))
  trained = sum(leaf.size for leaf in jax.tree.leaves(blueprint.state.params))
  moments = sum(leaf.size for leaf in jax.tree.leaves(blueprint.state.opt_state) if leaf.ndim)
  assert moments == 2 * trained


def poisoned(batch):
  latents = batch.visual.latents.copy()
  latents[3, 2, 1] = np.nan
  return batch.replace(visual=batch.visual.replace(latents=latents))


def test_a_batch_with_nan_changes_only_the_counters(bench):
  bench = bench('8')
  state, frozen = bench.begin()
  state, _ = bench.step(state, frozen, bench.batch())
  before = jax.device_get(state)
  for count in (1, 2):
    state, metrics = bench.step(state, frozen, bench.batch(poisoned))
    assert not metrics['finite'] and int(metrics['skipped_in_a_row']) == count
  after = jax.device_get(state)
  for name in ('params', 'opt_state', 'ema'):
    jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
  assert (after.step, after.skipped) == (3, 2)
  state, metrics = bench.step(state, frozen, bench.batch())
  assert metrics['finite'] and int(state.skipped) == 2 and int(state.skipped_in_a_row) == 0


def test_a_compiled_step_refuses_another_shape_and_names_it(bench):
  bench = bench('8')
  state, frozen = bench.begin()
  step = bench.step.lower(state, frozen, bench.batch()).compile()
  state, _ = step(state, frozen, bench.batch())
  latents = np.pad(bench.host_batch.visual.latents, ((0, 0), (0, 1), (0, 0)))
  longer = bench.batch(lambda batch: batch.replace(visual=batch.visual.replace(latents=latents)))
  with pytest.raises(TypeError, match=r'latents.*float32\[8,16,48\].*float32\[8,17,48\]'):
    step(state, frozen, longer)


def test_learning_rate_counts_updates_and_every_step_draws_anew(bench):
  bench = bench('8')
  state, frozen = bench.begin()
  losses = []
  for _ in range(2):
    start = jax.device_get(state.step)
    state = state.replace(step=jax.device_put(start, bench.blueprint.state.step.sharding))
    state, metrics = bench.step(state, frozen, bench.batch())
    losses.append(float(metrics['loss']))
  assert losses[0] != losses[1]
  assert float(metrics['learning_rate']) == pytest.approx(1e-3)


def test_four_micro_batches_of_two_equal_one_of_eight(tiny_config):
  tiny_config.data.sources = {'caption': source('shapes', 'caption')}
  tiny_config.objective.update(flow_matching=0.0, next_token=1.0)
  tiny_config.trainable = (('mllm/.*', True), ('.*', False))
  results = []
  for accumulate in (1, 4):
    config = copy.deepcopy(tiny_config)
    config.mesh.data, config.train.accumulate = 1, accumulate
    results.append(run_once(Bench(config, make_mesh(config.mesh, jax.devices()[:1]))))
  (whole, whole_metrics), (parts, metrics) = results
  masks = np.asarray(whole_metrics['terms']['next_token']['token_accuracy'][1])
  assert masks > 8  # several predicted tokens in each row, and not the same number
  np.testing.assert_allclose(metrics['loss'], whole_metrics['loss'], rtol=1e-5)
  np.testing.assert_allclose(metrics['grad_norm'], whole_metrics['grad_norm'], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               momenta(parts), momenta(whole))
  terms = [m['terms']['next_token']['token_accuracy'] for m in (whole_metrics, metrics)]
  np.testing.assert_allclose(*terms, atol=1e-5)


def test_micro_batches_take_a_share_of_every_device():
  rows = jnp.arange(8)
  np.testing.assert_array_equal(micro_batches(rows, 2), [[0, 2, 4, 6], [1, 3, 5, 7]])
