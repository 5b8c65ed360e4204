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
  sizes = {group: sum(leaf.size for leaf in jax.tree.leaves(system.shapes((group,))))
           for group in GROUPS}
  assert [(row.module, row.trained, row.frozen, row.dtypes) for row in rows] == [
      ('ResidualQueries', sizes['bridge'], 0, 'float32'),
      ('InternVL', 0, sizes['mllm'], 'bfloat16 float32 int8')]
  assert (total.trained, total.frozen) == (sizes['bridge'], sizes['mllm'])
  assert total.device_bytes == sum(row.device_bytes for row in rows)


def test_the_report_of_a_run(run, tmp_path, capsys):
  _, system, blueprint, modules = run
  axes = system.axes(GROUPS)
  overview.report(tmp_path, blueprint, modules, axes, SOURCES)
  said = capsys.readouterr().err
  assert '| Group  | Module ' in said and '| from runs/stage1 (ema) |' in said
  lines = [[cell.strip() for cell in line.strip('|').split('|')]
           for line in (tmp_path / overview.FILE).read_text().splitlines() if line[0] == '|']
  assert [line[0] for line in lines[1:]] == sorted(trees.flatten(axes))
  by_path = {line[0]: line[1:] for line in lines}
  assert by_path['mllm/text/decoder/layers/mlp/up/kernel'] == [
      '2 32 64', 'int8', 'layers embed mlp', '- fsdp tensor', 'False']
  assert by_path['bridge/queries'][-1] == 'True'
