"""A system with low-rank adapters trains them alone, through the partition that all systems use."""

import jax
import numpy as np
import optax

from jaxgen.config import lora as config_lora
from jaxgen.core import trees
from jaxgen.models.layers import lora
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
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
