"""The planner's numbers against a real run on CPU devices and against XLA's own count."""

import copy
import dataclasses
import types

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.models.registry import build
from jaxgen.models.registry import init
from jaxgen.models.registry import section
from jaxgen.planning.collectives import by_kind
from jaxgen.planning.collectives import collectives_of
from jaxgen.planning.program import compile_program
from jaxgen.planning.program import make_program
from jaxgen.planning.program import shard_bytes
from jaxgen.planning.topology import devices_of
from jaxgen.planning.topology import parse
from jaxgen.sharding import partition
from jaxgen.systems.registry import make_system
from jaxgen.training.flops import step_tally
from jaxgen.training.flops import tally_flops
from jaxgen.training.latents import global_batch
from jaxgen.training.latents import make_encoder
from jaxgen.training.state import init_state
from tests.models.rows import denoiser_inputs


@pytest.fixture(scope='module')
def config(tiny_base):
  config = copy.deepcopy(tiny_base)
  config.mesh.update(data=2, fsdp=4)
  config.model.frozen_dtype = 'bfloat16'
  return config


@pytest.fixture(scope='module')
def program(config):
  return make_program(config, jax.devices())


@pytest.fixture(scope='module')
def compiled(program):
  return compile_program(program)


def live_bytes(tree, device):
  """Bytes that a tree really holds on one device."""
  return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree)
             for shard in leaf.addressable_shards if shard.device == device)


def test_memory_is_that_of_a_real_run(config, program, compiled):
  system = make_system(config)
  state, frozen = init_state(config, system, program.blueprint, {})
  loader = make_loader(config, system.layout)
  rows = partition.row_sharding(program.mesh, config.train.rows)
  batch = global_batch(next(loader), make_encoder(config, system, frozen, loader, rows), rows,
                       config.train.rows)
  loader.close()
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) == jax.tree.map(
      lambda leaf: (leaf.shape, leaf.dtype), program.batch)
  memory, device = compiled.memory, jax.devices()[3]
  assert memory.parameters == live_bytes((state.params, state.ema), device)
  assert memory.optimizer == live_bytes(state.opt_state, device)
  assert memory.frozen == live_bytes(frozen, device)  # the pixel autoencoder has no parameters
  assert memory.batches == 2 * live_bytes(batch, device)
  assert shard_bytes(program.blueprint.state) == live_bytes(state, device)
  held = live_bytes((state, frozen, batch), device)
  assert memory.peak == pytest.approx(held + memory.temporary + live_bytes(batch, device))
  assert memory.temporary > 0


def test_a_program_that_a_tpu_compiler_refuses_has_a_size_all_the_same(program):
  chip = jax.sharding.SingleDeviceSharding(devices_of(parse('tpu:v5p:2x2x1'))[0])
  rows = jax.ShapeDtypeStruct((2**18, 128), np.float32, sharding=chip)
  refused = compile_program(dataclasses.replace(
      program, lowered=jax.jit(lambda rows: rows @ rows.T).lower(rows)))
  assert refused.text == ''
  assert refused.memory.peak == pytest.approx(4 * 2**36, rel=0.01)
  assert refused.memory.temporary > 0.99 * refused.memory.peak


def test_the_step_for_a_tpu_has_its_kernels(tiny_config):
  """Two scanned stacks of the denoiser: splash forwards, and twice backwards."""
  tiny_config.data.update(image_size=48, visual_tokens=144)  # as short rows take plain products
  lowered = make_program(tiny_config, devices_of(parse('tpu:v5p:2x2x1'))).lowered
  assert lowered.as_text().count('@tpu_custom_call') == 6


def test_parameters_and_gradients_cross_between_the_devices_of_fsdp(program, compiled):
  topology = parse('gpu:h100:2x4')  # each row of the mesh is a node
  devices = [types.SimpleNamespace(process_index=index // 4) for index in range(8)]
  table = dict(by_kind(collectives_of(compiled.text, devices, topology)))
  trained = sum(leaf.size for leaf in jax.tree.leaves(program.blueprint.state.params))
  assert set(table) >= {'all-gather', 'all-reduce'}
  assert sum(row['link_bytes'] for row in table.values()) > 3 * trained * 4 * 3 / 4
  # Between the nodes at least the gradients are summed: 2 (n - 1) / n of a device's share.
  assert sum(row['network_bytes'] for row in table.values()) >= trained * 4 / 4


@pytest.mark.parametrize('gradient', [False, True])
def test_flops_are_those_of_xla(gradient):
  """One block of each kind: XLA counts the body of a longer scan once."""
  module = build(section('mmdit', in_channels=64, cond_dim=384, width=384, heads=3,
                         double_blocks=1, single_blocks=1), np.float32)
  params = jax.eval_shape(lambda rng: jax.tree.map(
      lambda leaf: leaf, init(module, rng))['params'], jax.random.key(0))
  tokens, words, rows = 64, 16, 2

  def shape(*sizes, dtype=np.float32):
    return jax.ShapeDtypeStruct((rows, *sizes), dtype)

  inputs = jax.eval_shape(
      denoiser_inputs, shape(tokens, 64), shape(1), shape(tokens, 3, dtype=np.int32),
      shape(tokens, dtype=np.int32), shape(words, 384), shape(words, 3, dtype=np.int32),
      shape(words, dtype=np.int32))

  def loss(params, *inputs):
    return module.apply({'params': params}, *inputs).sum()

  function = jax.grad(loss) if gradient else loss
  tally = tally_flops(function, params, *inputs, modules={'MMDiT'})
  theirs = jax.jit(function).lower(params, *inputs).cost_analysis()['flops']
  assert sum(tally.values()) == pytest.approx(theirs, rel=0.05)
  assert tally.keys() == {('MMDiT', 'dense'), ('MMDiT', 'attention')}
  assert tally['MMDiT', 'attention'] < 0.05 * tally['MMDiT', 'dense']


def test_work_is_told_apart_by_parameter_group(config, program):
  tally = step_tally(config, program.blueprint, program.batch)
  assert {'mllm', 'bridge', 'denoiser'} <= {group for group, _ in tally}
  inside = sum(flops for (group, _), flops in tally.items() if group)
  assert inside > 0.99 * sum(tally.values())


def test_models_of_one_class_are_told_apart():
  module = build(section('mlp_connector', width=8, hidden=8, out_width=8), np.float32)
  states, segments = module.example()
  params = module.init(jax.random.key(0), states, segments)
  first, second = (module.clone(name=group) for group in ('bridge', 'connector'))

  def loss(params, states):
    return second.apply(params, first.apply(params, states, segments), segments).sum()

  tally = tally_flops(jax.value_and_grad(loss), params, states, modules=('bridge', 'connector'))
  # Of two kernels each: results, gradients, and those with respect to what is read, but for states.
  assert tally == {('bridge', 'dense'): 5 * 128, ('connector', 'dense'): 6 * 128}


def test_rows_that_no_mesh_divides(tiny_config):
  tiny_config.mesh.data = 3
  with pytest.raises(UserError, match=r'config\.train\.rows'):
    make_program(tiny_config, jax.devices())
