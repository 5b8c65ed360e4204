"""One step of a config on some of the eight devices, and its compiled program."""

import jax

from jaxgen.data.loader import make_loader
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.latents import global_batch
from jaxgen.training.latents import make_encoder
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step


def after_one_step(config, devices, loaded=None):
  """The state on the devices, the loss, and the program's text.

  Args:
    config: of a run; its mesh fits the number of devices.
    devices: how many.
    loaded: group -> parameters to begin with; others are random.
  """
  system, objectives = make_system(config), make_objectives(config)
  mesh = make_mesh(config.mesh, jax.devices()[:devices])
  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  blueprint = make_blueprint(config, system, needed_groups(system, objectives), mesh)
  state, frozen = init_state(config, system, blueprint, loaded or {})
  loader = make_loader(config, system.layout)
  batch = global_batch(next(loader), make_encoder(config, system, frozen, loader, rows), rows,
                       config.train.rows)
  loader.close()
  step = compile_step(make_train_step(config, system, objectives, blueprint.optimizer),
                      blueprint, rows)
  program = step.lower(state, frozen, batch).compile()
  state, metrics = program(state, frozen, batch)
  return state, float(metrics['loss']), program.as_text()
