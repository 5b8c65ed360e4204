"""``train(config, workdir)``: set up, restore, loop. A run is its workdir."""

import contextlib
import sys

import jax
from ml_collections import ConfigDict

from jaxgen.config import validate
from jaxgen.data.loader import make_loader
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.mesh import start_processes
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.systems.registry import make_system
from jaxgen.training import workdir as workdirs
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.checkpoint import gather_cursors
from jaxgen.training.flops import step_flops
from jaxgen.training.init_from import load_groups
from jaxgen.training.latents import Encoder
from jaxgen.training.latents import Feed
from jaxgen.training.metrics import Journal
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step


def train(config: ConfigDict, workdir: str) -> None:
  """Trains to ``config.train.steps``; on a workdir of the same config, goes on where it stands.

  Resuming is exact, on any number of processes and devices. Every process of a run calls this
  (see ``jaxgen.sharding.mesh.start_processes`` for how they find each other).

  Args:
    config: of the run.
    workdir: receives ``config.json``, ``checkpoints/``, ``frozen/``, ``metrics.jsonl`` and
      TensorBoard's events.

  Raises:
    UserError: a config that does not hold together, missing data or weights, a workdir of
      another config, too many steps in a row that are not finite, or a full disk.
  """
  # --- Set up: everything that can be wrong with the config fails here, before any array exists.
  validate(config)
  start_processes()
  use_compilation_cache()
  system, objectives = make_system(config), make_objectives(config)
  mesh = make_mesh(config.mesh)
  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  blueprint = make_blueprint(config, system, needed_groups(objectives), mesh)
  path = workdirs.claim(config, workdir)

  with contextlib.ExitStack() as stack:
    # --- Restore: the newest complete checkpoint, else init_from, else random.
    checkpoints = Checkpoints(path, config.train.keep)
    stack.callback(checkpoints.close)
    start = checkpoints.latest() or 0
    if start >= config.train.steps:
      _say(f'{path.name}: all {start} steps are done; raise train.steps to go on')
      return
    low, high = partition.process_rows(mesh, config.train.rows)
    loader = make_loader(config, system.layout, rows=(low, high), start_step=start)
    if start:
      state, cursors = checkpoints.restore(start, blueprint)
      frozen = checkpoints.restore_frozen(blueprint)
      loader.restore(cursors[low:high], start)
      _say(f'{path.name}: resumes at step {start}')
    else:
      state, frozen = init_state(config, system, blueprint, load_groups(config, blueprint))
      checkpoints.save_frozen(frozen)

    # --- Loop: the next batch is made and the last metrics are read while a step runs.
    step_of = compile_step(
        make_train_step(config, system, objectives, blueprint.optimizer), blueprint, rows)
    feed = Feed(loader, Encoder(system, frozen), rows, config.train.rows)
    stack.callback(feed.close)
    journal = Journal(config, path, start, step_flops(config, blueprint, feed.peek().batch))
    stack.callback(journal.close)
    for step in range(start + 1, config.train.steps + 1):
      fed = next(feed)
      with jax.transfer_guard('disallow'):
        state, metrics = step_of(state, frozen, fed.batch)
      journal.put(step, metrics, fed.ids, fed.wait)
      if step % config.train.checkpoint_every == 0 or step == config.train.steps:
        journal.flush()
        checkpoints.save(step, state, gather_cursors(fed.cursors, low, config.train.rows))
    journal.flush()
    _say(f'{path.name}: done; {loader.report()}')


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)
