"""A system with low-rank adapters trains them alone, through the partition that all systems use."""

import jax
import numpy as np
import optax
import pytest

from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import lora as config_lora
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models.layers import lora
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.init_from import load_groups
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint


def test_adapters_train_alone(tiny_config):
  plain = make_system(tiny_config)
  tiny_config.model.lora.text = config_lora('mllm/text/.*attention/(q|v)', rank=2, alpha=4.0)
  tiny_config.model.lora.out = config_lora('denoiser/.*_out', rank=3, alpha=3.0)
  system = make_system(tiny_config)
  tiny_config.trainable = ((lora.TRAINABLE, True), ('.*', False))
  base, all_shapes = (trees.flatten(each.shapes()) for each in (plain, system))
  added = all_shapes.keys() - base.keys()
  q = 'mllm/text/decoder/layers/attention/q/lora/b'
  assert all(lora.is_adapter(path) for path in added) and all_shapes[q].shape == (2, 2, 4, 8)
  assert trees.flatten(system.axes())[q] == ('layers', 'lora', 'heads', 'head_dim')

  blueprint = make_blueprint(tiny_config, system, system.groups, make_mesh(tiny_config.mesh))
  moving = trees.flatten(blueprint.state.params)
  assert moving.keys() == {path for path in added if not path.endswith('alpha')}
  moments = trees.flatten(optax.tree.get(blueprint.state.opt_state, 'mu'))
  assert {path: leaf.shape for path, leaf in moments.items()} == {
      path: leaf.shape for path, leaf in moving.items()}

  state, frozen = init_state(tiny_config, system, blueprint, {})
  params = trees.flatten(jax.device_get(state.params))
  assert not any(np.any(leaf) for path, leaf in params.items() if path.endswith('/b'))
  assert all(np.any(leaf) for path, leaf in params.items() if path.endswith('/a'))
  alpha = trees.flatten(frozen)[q.removesuffix('b') + 'alpha']
  np.testing.assert_array_equal(alpha, [4, 4])


def test_the_next_run_starts_from_merged_kernels(tiny_config, tmp_path, capsys):
  """A frozen group in bf16, as stage 2 of Query-Kontext has it; a group without adapters fails."""
  plain = make_system(tiny_config)
  tiny_config.model.lora.text = config_lora('mllm/text/.*attention/(q|v)', rank=2, alpha=4.0)
  adapted = make_system(tiny_config)
  params = jax.jit(lambda rng: adapted.init(rng, ('mllm',)))(jax.random.key(0))
  params = trees.map_named(
      lambda path, leaf: leaf + 0.1 if path.endswith('lora/b') else leaf, params)
  merged = lora.merge(params)
  save_weights(str(tmp_path / 'adapted'), params, '{}')
  save_weights(str(tmp_path / 'plain'), merged, '{}')
  tiny_config.model.lora = {}
  tiny_config.model.frozen_dtype = 'bfloat16'
  tiny_config.init_from.changes = (('mllm/.*/lora/.*', 'merge'),)
  blueprint = make_blueprint(tiny_config, plain, plain.groups, make_mesh(tiny_config.mesh))

  tiny_config.init_from.mllm = str(tmp_path / 'adapted')
  loaded, _ = load_groups(tiny_config, blueprint)
  assert '2 merged: mllm/text/decoder/layers/attention/q' in capsys.readouterr().err
  _, frozen = init_state(tiny_config, plain, blueprint, loaded)
  jax.tree.map(lambda ours, goal: np.testing.assert_array_equal(
      ours, np.asarray(goal, ours.dtype)), jax.device_get(frozen['mllm']), merged['mllm'])

  tiny_config.init_from.mllm = str(tmp_path / 'plain')
  with pytest.raises(UserError, match=r"changes = 'mllm/\.\*/lora/\.\*': there is no such adapter to "
                     r'merge in .*/plain; start from the run that trained it'):
    load_groups(tiny_config, blueprint)
