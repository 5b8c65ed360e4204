"""The train step of a config, abstract from end to end: built, lowered and compiled for a mesh."""

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from jaxgen.config import validate
from jaxgen.core import trees
from jaxgen.core.types import Batch
from jaxgen.core.types import Layout
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import memory
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.state import AUTOENCODER
from jaxgen.training.state import Blueprint
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# How a TPU compiler says what a program needs, arguments and all: that of far too large ones before
# it looks closer, that of others in the end.
_REFUSED = re.compile(r'(?:Used |required for HLO temporaries \()([\d.]+)([KMGT]?)')


@dataclasses.dataclass(frozen=True)
class Program:
  """A run before any of its arrays exists.

  Attributes:
    config: of the run.
    mesh: of devices that may not be there.
    blueprint: shapes, dtypes and shardings of state and frozen parameters.
    batch: the same of the global batch.
    layout: of the models.
    lowered: the train step, not yet compiled.
  """

  config: ConfigDict
  mesh: Mesh
  blueprint: Blueprint
  batch: Batch
  layout: Layout
  lowered: jax.stages.Lowered


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device while the step runs.

  Attributes:
    parameters: fp32 masters of what trains, and its moving average.
    optimizer: moments.
    frozen: parameters that do not train; the autoencoder counts whole, as each device encodes.
    batches: the batch of this step and the one that is made meanwhile.
    temporary: activations, gradients and whatever else the step makes and drops.
    peak: all of it at the worst moment.
    host: moments and moving average where they lie in the memory of the host, for one device.
  """

  parameters: float
  optimizer: float
  frozen: float
  batches: float
  temporary: float
  peak: float
  host: float


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a program.

  Attributes:
    seconds: that it took.
    core_seconds: the same added up over the cores that worked on it.
    memory: of one device.
    text: the scheduled program; empty where it did not fit and the compiler gave up.
  """

  seconds: float
  core_seconds: float
  memory: Memory
  text: str


def make_program(config: ConfigDict, devices: Sequence[Any]) -> Program:
  """Builds and lowers the train step that ``jaxgen train`` would run on the devices.

  Raises:
    UserError: a config that does not hold together, or does not fit the number of devices.
  """
  validate(config)
  system, objectives = make_system(config), make_objectives(config)
  mesh = make_mesh(config.mesh, devices)
  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  blueprint = make_blueprint(config, system, needed_groups(system, objectives), mesh)
  batch = abstract_batch(config, system.layout, rows)
  step = compile_step(
      make_train_step(config, system, objectives, blueprint.optimizer), blueprint, rows)
  return Program(config, mesh, blueprint, batch, system.layout,
                 step.lower(blueprint.state, blueprint.frozen, batch))


def abstract_batch(config: ConfigDict, layout: Layout, rows: NamedSharding) -> Batch:
  """Shapes, dtypes and shardings of a global batch as the loader packs it."""
  row = pack([[]], RowShape.of(config.data, layout), pad=0).batch
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
          (config.train.rows, *leaf.shape[1:]), leaf.dtype, sharding=rows), row)


def compile_program(program: Program, options: dict[str, Any] | None = None) -> Compiled:
  """Compiles for the devices of the mesh; a program too large for them has a memory all the same.

  Args:
    program: from ``make_program``.
    options: of the compiler.
  """
  began, worked = time.perf_counter(), time.process_time()

  def result(step, text):
    return Compiled(time.perf_counter() - began, time.process_time() - worked,
                    _memory(program, step), text)

  try:
    compiled = program.lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    used = _REFUSED.search(str(error))
    if not used:
      raise
    return result(float(used[1]) * _UNITS[used[2]], '')
  stats = compiled.memory_analysis()
  # The step overwrites the old state, so outputs lie where arguments did. Arguments that it does
  # not read, an unused head of the language model say, are not among the compiler's.
  arguments = max(stats.argument_size_in_bytes, _read_by_step(program))
  step = (arguments + stats.output_size_in_bytes - stats.alias_size_in_bytes
          + stats.temp_size_in_bytes)
  return result(step, compiled.as_text())


def shard_bytes(tree: Any, on_host: bool = False) -> float:
  """Bytes of one device's share of a tree of ``ShapeDtypeStruct``, in its memory or its host's."""
  return float(sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                   for leaf in jax.tree.leaves(tree)
                   if (leaf.sharding.memory_kind == memory.HOST) == on_host))


def _read_by_step(program: Program) -> float:
  """Bytes of state, frozen parameters and batch, without the autoencoder."""
  frozen = {group: tree for group, tree in program.blueprint.frozen.items()
            if group != AUTOENCODER}
  return shard_bytes((program.blueprint.state, frozen, program.batch))


def _memory(program: Program, step: float) -> Memory:
  """Adds what lives beside the step, which alone has a peak of ``step`` bytes."""
  state, frozen = program.blueprint.state, program.blueprint.frozen
  autoencoder = frozen.get(AUTOENCODER, {})
  whole = float(sum(leaf.size * leaf.dtype.itemsize
                    for leaf in trees.flatten(autoencoder).values()))
  batch = shard_bytes(program.batch)
  return Memory(
      parameters=shard_bytes((state.params, state.ema)), optimizer=shard_bytes(state.opt_state),
      frozen=shard_bytes(frozen) + whole, batches=2 * batch,
      temporary=max(0.0, step - _read_by_step(program)),
      peak=step + shard_bytes(autoencoder) + whole + batch,
      host=shard_bytes(state, on_host=True))
