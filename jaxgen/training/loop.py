"""``train(config, workdir)``: set up, restore, loop. The workdir holds all state of a run."""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from jaxgen.config import validate
from jaxgen.core import formats
from jaxgen.core.types import Params
from jaxgen.data.kept_tokenizers import with_kept
from jaxgen.data.loader import Loader
from jaxgen.data.loader import make_loader
from jaxgen.objectives.registry import Objectives
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import partition
from jaxgen.sharding.hosts import Hosts
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.sharding.processes import start_processes
from jaxgen.systems.base import System
from jaxgen.systems.registry import make_system
from jaxgen.operations import elastic
from jaxgen.operations import fingerprint
from jaxgen.operations import lock
from jaxgen.training import caching
from jaxgen.training import overview
from jaxgen.training import trackers
from jaxgen.training import workdir as workdirs
from jaxgen.checkpoints.checkpoint import Checkpoints
from jaxgen.checkpoints.checkpoint import gather_cursors
from jaxgen.training.flops import step_flops
from jaxgen.training.init_from import load_groups
from jaxgen.training.latents import Feed
from jaxgen.training.latents import make_encoder
from jaxgen.training.latents import StepInput
from jaxgen.training.metrics import Found
from jaxgen.training.metrics import Journal
from jaxgen.operations.programs import Programs
from jaxgen.training.state import Blueprint
from jaxgen.training.state import TrainState
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step
from jaxgen.operations.stop import StopRequest
from jaxgen.operations.trace import Trace
from jaxgen.operations.watch import Watch
from jaxgen.training.validation import Drawing
from jaxgen.training.validation import open_rows
from jaxgen.training.validation import prepare
from jaxgen.training.validation import Validation

Reader = Callable[[str], Params]


def train(config: ConfigDict, workdir: str, start: Mapping[str, Any] | None = None,
          read_external: Reader | None = None,
          profile: tuple[int, int] | None = None,
          drawing: Drawing | None = None) -> bool:
  """Trains to ``config.train.steps``; resumes if the workdir holds a run of the same config.

  Resuming is exact on any number of processes and devices. Every process of a run calls this
  function (``jaxgen.sharding.processes`` connects them). After a SIGTERM to any process, all save
  the same step and return.

  Args:
    config: the run's config.
    workdir: folder for ``config.json``, ``checkpoints/``, ``frozen/``, ``metrics.jsonl`` and
      TensorBoard's event files.
    start: ``coordinator``, ``num_processes`` and ``process_id``, see ``start_processes``.
    read_external: reads models of other libraries for ``config.init_from``, see ``load_groups``.
    profile: first and last step to trace, see ``Trace``.
    drawing: prepares the images of ``config.validation``; without it none are drawn.

  Returns:
    Whether all steps are done; False after SIGTERM.

  Raises:
    UserError: an invalid config, missing data or weights, a workdir of another config, hosts that
      differ, another training in that workdir, damaged files there, too many consecutive
      non-finite steps, or a full disk.
  """
  # --- Set up: errors in the config are raised here, before any array exists.
  validate(config)
  formats.check_run(workdir)
  hosts = start_processes(**(start or {}))
  if hosts.index == 0:
    trackers.check(config)
  use_compilation_cache()
  with Watch(hosts, config.train.host_timeout) as watch:
    fingerprint.check_same(hosts, 'start', fingerprint.describe(config, workdir))
    return _run(config, workdir, hosts, watch, read_external, profile, drawing)


def _run(config: ConfigDict, workdir: str, hosts: Hosts, watch: Watch, read_external: Reader | None,
         profile: tuple[int, int] | None, drawing: Drawing | None) -> bool:
  """``train`` behind its first checks; what is opened here is closed in the opposite order."""
  began = time.time()
  mesh = make_mesh(config.mesh)
  topology = elastic.plan(config, mesh, hosts.count, workdir)
  asked, config = config, elastic.applied(config, topology)
  system, objectives = make_system(config), make_objectives(config)
  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  blueprint = make_blueprint(config, system, needed_groups(system, objectives), mesh)
  with contextlib.ExitStack() as stack:
    stack.enter_context(lock.held(epath.Path(workdir), leads=hosts.index == 0))
    path, before = workdirs.claim(asked, workdir, hosts)
    config = with_kept(config, path)
    draw = prepare(config, system, blueprint.groups, path, drawing)
    programs = stack.enter_context(Programs())
    checkpoints = stack.enter_context(contextlib.closing(Checkpoints(path, config.train.keep)))
    first = checkpoints.latest() or 0
    if first >= config.train.steps:
      _say(f'{path.name}: all {first} steps are done; raise train.steps to go on')
      return True
    trace = Trace(profile, path, hosts, first, config.train.steps)
    low, high = partition.process_rows(mesh, config.train.rows)
    loader = make_loader(config, system.layout, rows=(low, high), start_step=first)
    held_out = open_rows(config, system, (low, high))
    records = workdirs.record_changes(path, loader.records, hosts)

    # --- Restore: from the newest complete checkpoint, else from init_from, else at random.
    if first:
      state, frozen, sources = _resumed(checkpoints, first, blueprint, loader, (low, high))
      moved = elastic.changes(elastic.last(path), topology, config.train.rows)
      _say(f'{path.name}: resumes at step {first}{moved}{workdirs.changes(before, asked, first)}'
           f'{records}')
    else:
      state, frozen, sources = _begun(config, system, blueprint, checkpoints, read_external)
    elastic.save(topology, path, hosts)
    overview.report(path, blueprint, system.models, system.axes(blueprint.groups), sources)
    blueprint, frozen = caching.for_steps(config, system, blueprint, frozen)

    # --- Compile: all programs of the run; from here on other shapes are an error.
    stop = stack.enter_context(StopRequest())
    encoder = make_encoder(config, system, frozen, loader, rows)
    feed = stack.enter_context(contextlib.closing(Feed(loader, encoder, rows, config.train.rows)))
    validation = stack.enter_context(contextlib.closing(
        Validation(config, system, blueprint, encoder, rows, held_out, draw)))
    stack.push(watch.failed)  # runs before anything is closed, which may block on a lost host
    train_step = _compiled(config, system, objectives, blueprint, rows, hosts,
                           (state, frozen, feed.peek().batch))
    flops = step_flops(config, blueprint, feed.peek().batch)
    journal = stack.enter_context(contextlib.closing(
        Journal(config, path, first, began, flops, programs)))
    stack.callback(trace.close)

    # --- Loop
    step = _Loop(config, train_step, feed, validation, checkpoints, journal, trace, stop, watch,
                 low).run(first, state, frozen)
    done = step == config.train.steps
    _say(f'{path.name}: done; {_of_data(loader.report())}' if done else f'{path.name}: SIGTERM; '
         f'saves step {step} and stops; the same command goes on from there')
  return done


@dataclasses.dataclass(frozen=True)
class _Loop:
  """The steps of a run: while one runs, the next batch is prepared and the metrics of the one
  before are fetched. ``low`` is the first global row of this process."""

  config: ConfigDict
  train_step: jax.stages.Compiled
  feed: Feed
  validation: Validation
  checkpoints: Checkpoints
  journal: Journal
  trace: Trace
  stop: StopRequest
  watch: Watch
  low: int

  def run(self, first: int, state: TrainState, frozen: Params) -> int:
    """Runs the steps behind step ``first`` until the last one, or a SIGTERM; saves the step at
    which it stops and returns its number."""
    for step in range(first + 1, self.config.train.steps + 1):
      self.watch.step(step)
      with self.trace.step(step, state):
        fed = next(self.feed)
        with jax.transfer_guard('disallow'):
          state, metrics = self.train_step(state, frozen, fed.batch)
      self.journal.put(step, metrics, fed)
      last = step == self.config.train.steps or self.stop.reached(step)
      due = self.validation.due(step, last)
      if due or self.trace.ends(step):
        self.journal.flush(functools.partial(self._behind, step, state, frozen, due))
      if last or step % self.config.train.checkpoint_every == 0:
        self._save(step, state, fed)
      if last:
        break
    self.watch.at('the end')
    self.journal.flush()
    if step == self.config.train.steps:
      self.journal.done(step)
    return step

  def _behind(self, step: int, state: TrainState, frozen: Params, due: bool) -> Found:
    """What follows a step whose time has been taken: the end of a trace, and a validation."""
    if self.trace.ends(step):
      self.watch.at('the trace')
      self.trace.close(state)
    if not due:
      return {}, {}
    self.watch.at(f'the validation of step {step}')
    return self.validation(step, state, frozen)

  def _save(self, step: int, state: TrainState, fed: StepInput) -> None:
    self.watch.at(f'the save of step {step}')
    self.journal.flush()
    self.checkpoints.save(step, state.items,
                          gather_cursors(fed.cursors, self.low, self.config.train.rows))


def _begun(config: ConfigDict, system: System, blueprint: Blueprint, checkpoints: Checkpoints,
           read_external: Reader | None) -> tuple[TrainState, Params, dict[str, str]]:
  """State and frozen parameters of a new run, and where each group comes from."""
  loaded, sources = load_groups(config, blueprint, read_external)
  state, frozen = init_state(config, system, blueprint, loaded)
  checkpoints.save_frozen(frozen)
  return state, frozen, sources


def _resumed(checkpoints: Checkpoints, step: int, blueprint: Blueprint, loader: Loader,
             rows: tuple[int, int]) -> tuple[TrainState, Params, dict[str, str]]:
  """The same of a checkpoint, to which the loader of the rows [low, high) goes back too."""
  items, cursors = checkpoints.restore(step, blueprint.state.items)
  loader.restore(cursors[slice(*rows)], step)
  return (TrainState.of_items(items), checkpoints.restore_frozen(blueprint.stored),
          dict.fromkeys(blueprint.groups, 'from checkpoint'))


def _compiled(config: ConfigDict, system: System, objectives: Objectives, blueprint: Blueprint,
              rows: NamedSharding, hosts: Hosts, arguments: tuple) -> jax.stages.Compiled:
  """Compiles the train step, after checking that all hosts have the same program."""
  train_step = make_train_step(config, system, objectives, blueprint.optimizer)
  program = compile_step(train_step, blueprint, rows).lower(*arguments)
  if hosts.count > 1:
    text = fingerprint.text_hash(program.as_text())
    fingerprint.check_same(hosts, 'program', {'the train step': text})
  return program.compile()


def _of_data(report: Mapping[str, Any]) -> str:
  """The loader's report in a line; broken records were logged by name when they were met."""
  epochs = ', '.join(f'{name} {count:.2f}' for name, count in sorted(report['epochs'].items()))
  return (f'epochs: {epochs}; padding {report["padding_share"]:.1%}; skipped: '
          f'{len(report["skipped"])} broken records, {len(report["oversize"])} too large samples')


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)
