"""ZeRO-2 computes what ZeRO-3 does, and gathers the parameters outside of all loops."""

import copy

import jax
import numpy as np
import pytest

from jaxgen.config import validate
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.planning import hlo
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.latents import global_batch
from jaxgen.training.latents import make_encoder
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step


def after_one_step(config):
  """Parameters after a step of two micro-batches on two devices by two, and the program."""
  system, objectives = make_system(config), make_objectives(config)
  mesh = make_mesh(config.mesh, jax.devices()[:4])
  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  blueprint = make_blueprint(config, system, needed_groups(system, objectives), mesh)
  state, frozen = init_state(config, system, blueprint, {})
  loader = make_loader(config, system.layout)
  batch = global_batch(next(loader), make_encoder(config, system, frozen, loader, rows), rows,
                       config.train.rows)
  loader.close()
  step = compile_step(make_train_step(config, system, objectives, blueprint.optimizer),
                      blueprint, rows)
  program = step.lower(state, frozen, batch).compile()
  state, metrics = program(state, frozen, batch)
  return jax.device_get((state.params, metrics['loss'])), program.as_text()


def gathers(text):
  """How often all-gathers run, and how many stand outside of loops."""
  module = hlo.Module(text)
  runs = [(computation, times) for computation, line, times in module.walk(module.entry)
          if line.opcode == 'all-gather']
  return sum(times for _, times in runs), sum(computation == module.entry for computation, _ in runs)


@pytest.mark.slow
def test_stage_two_equals_stage_three_and_gathers_once(tiny_base):
  config = copy.deepcopy(tiny_base)
  config.mesh.update(data=2, fsdp=2)
  config.train.accumulate = 2
  (params, loss), text = after_one_step(config)
  config.train.zero = 2
  (whole_params, whole_loss), whole_text = after_one_step(config)
  np.testing.assert_allclose(whole_loss, loss, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole_params, params)
  (runs, _), (whole_runs, outside) = gathers(text), gathers(whole_text)
  trained = len(jax.tree.leaves(params))
  assert whole_runs < runs / 2
  assert outside >= trained / 4  # small ones are gathered together


def test_other_stages_are_refused(tiny_config):
  tiny_config.train.zero = 1
  with pytest.raises(UserError, match=r'config\.train\.zero = 1.*2, 3'):
    validate(tiny_config)
