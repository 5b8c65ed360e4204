"""The table of parameters at start, and parameters.txt, against what devices hold."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen.core import trees
from jaxgen.models import registry
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training import overview
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint

GROUPS = ('bridge', 'mllm')
SOURCES = {'bridge': 'random', 'mllm': 'from runs/stage1 (ema)'}


@pytest.fixture
def run(tiny_config):
  """``(config, system, blueprint, modules)``: a trained bridge, a frozen MLLM half in int8."""
  tiny_config.model.frozen_dtype = 'bfloat16'
  tiny_config.model.quantized = (('mllm/text/.*/mlp/.*', 'int8'),)
  tiny_config.mesh.update(data=1, fsdp=4, tensor=2)
  system = make_system(tiny_config)
  blueprint = make_blueprint(tiny_config, system, GROUPS, make_mesh(tiny_config.mesh))
  modules = {group: registry.build(tiny_config.model[group], jnp.float32) for group in GROUPS}
  return tiny_config, system, blueprint, modules


def test_the_table_counts_what_a_device_holds(run):
  config, system, blueprint, modules = run
  state, stored = init_state(config, system, blueprint, {})
  held = trees.merge(state.params, blueprint.quantize(stored))
  *rows, total = overview.groups(blueprint, modules, SOURCES)
  for row in rows:
    leaves = jax.tree.leaves(held[row.group])
    assert row.device_bytes == sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert row.source == SOURCES[row.group]
    assert row.optimizer_bytes == held_by_optimizer(state, row.group)
  sizes = {group: sum(leaf.size for leaf in jax.tree.leaves(system.shapes((group,))))
           for group in GROUPS}
  assert [(row.module, row.trained, row.frozen, row.dtypes) for row in rows] == [
      ('ResidualQueries', sizes['bridge'], 0, 'float32'),
      ('InternVL', 0, sizes['mllm'], 'bfloat16 float32 int8')]
  assert (total.trained, total.frozen) == (sizes['bridge'], sizes['mllm'])
  assert total.device_bytes == sum(row.device_bytes for row in rows)
  assert total.optimizer_bytes == rows[0].optimizer_bytes > 0


def held_by_optimizer(state, group) -> int:
  """Bytes on the first device of moments and moving average, without counts of steps."""
  leaves = jax.tree.leaves_with_path((state.opt_state, state.ema))
  return sum(leaf.addressable_shards[0].data.nbytes for path, leaf in leaves
             if jax.tree_util.DictKey(group) in path)


@pytest.mark.parametrize('moments, expected', [('float32', 4), ('bfloat16', 2)])
def test_muon_keeps_one_moment_of_matrices_and_two_of_the_rest(tiny_config, moments, expected):
  tiny_config.optimizer.update(name='muon', moments_dtype=moments)
  tiny_config.mesh.update(data=8)
  system = make_system(tiny_config)
  blueprint = make_blueprint(tiny_config, system, GROUPS[:1], make_mesh(tiny_config.mesh))
  rows = overview.parameters(blueprint, system.axes(GROUPS[:1]))
  sizes = {path: leaf.size for path, leaf in trees.flatten(blueprint.state.params).items()}
  copies = {row.path: (row.optimizer_bytes / sizes[row.path] - 4) / expected for row in rows}
  assert set(copies.values()) == {1, 2}  # beside the moving average, 4 bytes
  assert copies['bridge/norm/scale' if 'bridge/norm/scale' in copies else 'bridge/queries'] == 2


def test_the_report_of_a_run(run, tmp_path, capsys):
  _, system, blueprint, modules = run
  axes = system.axes(GROUPS)
  overview.report(tmp_path, blueprint, modules, axes, SOURCES)
  said = capsys.readouterr().err
  table, text = (tmp_path / overview.FILE).read_text().split('\n\n')
  assert said == table + '\n'
  assert '| Group  | Module ' in said and '| from runs/stage1 (ema) |' in said
  lines = [[cell.strip() for cell in line.strip('|').split('|')]
           for line in text.splitlines() if line[0] == '|']
  assert [line[0] for line in lines[1:]] == sorted(trees.flatten(axes))
  by_path = {line[0]: line[1:] for line in lines}
  assert by_path['mllm/text/decoder/layers/mlp/up/kernel'] == [
      '2 32 64', 'int8', 'layers embed mlp', '- fsdp tensor', 'False', '0']
  size = sum(leaf.size for leaf in jax.tree.leaves(system.shapes(('bridge',))['bridge']['queries']))
  assert by_path['bridge/queries'][-2:] == ['True', f'{3 * 4 * size // 4:,}']  # over mesh.fsdp
