"""Builds, lowers and compiles a config's train step for a mesh, from shapes alone."""

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
from jaxgen.data.image_tokens import stored_width
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.states import stored_shape
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding import memory
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training import frozen_groups
from jaxgen.training.state import AUTOENCODER
from jaxgen.training.state import Blueprint
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# The TPU compiler's out-of-memory messages, with the total need including arguments: one form for
# programs that are rejected early as far too large, one for the others.
_REFUSED = re.compile(r'(?:Used |required for HLO temporaries \()([\d.]+)([KMGT]?)')


@dataclasses.dataclass(frozen=True)
class Program:
  """A run's train step before any array exists.

  Attributes:
    config: the run's config.
    mesh: the mesh; its devices may be absent.
    blueprint: shapes, dtypes and shardings of the state and the frozen parameters.
    batch: shapes, dtypes and shardings of the global batch.
    layout: the model properties that the data pipeline needs.
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
  """Memory use of one device during the step, in bytes.

  Attributes:
    parameters: fp32 masters of the trainable parameters, and their moving average.
    optimizer: optimizer moments.
    frozen: frozen parameters; the autoencoder counts in full, because every device encodes.
    batches: the current batch and the one being prepared.
    temporary: activations, gradients and other temporaries of the step.
    peak: peak of the total.
    host: moments and moving average offloaded to host memory, per device.
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
  """Result of a compilation.

  Attributes:
    seconds: wall time of the compilation.
    core_seconds: CPU time of the compilation, summed over cores.
    memory: memory use of one device.
    text: the scheduled HLO; empty if the program was too large to compile.
  """

  seconds: float
  core_seconds: float
  memory: Memory
  text: str


def make_program(config: ConfigDict, devices: Sequence[Any]) -> Program:
  """Builds and lowers the train step that ``jaxgen train`` would run on the devices.

  Raises:
    UserError: an invalid config, or a mesh that does not match the number of devices.
  """
  validate(config)
  system, objectives = make_system(config), make_objectives(config)
  mesh = make_mesh(config.mesh, devices)
  rows = partition.row_sharding(mesh, config.train.rows, config.train.accumulate)
  blueprint = frozen_groups.read_by_steps(
      config, system, make_blueprint(config, system, needed_groups(system, objectives), mesh))
  batch = abstract_batch(config, system.layout, rows)
  step = compile_step(
      make_train_step(config, system, objectives, blueprint.optimizer), blueprint, rows)
  return Program(config, mesh, blueprint, batch, system.layout,
                 step.lower(blueprint.state, blueprint.frozen, batch))


def abstract_batch(config: ConfigDict, layout: Layout, rows: NamedSharding) -> Batch:
  """Shapes, dtypes and shardings of a global batch, as the loader packs it."""
  conditioning = stored_shape(config.data.states) if config.data.states else None
  width = stored_width(config.data.image_tokens) if config.data.image_tokens else 0
  shape = RowShape.of(config.data, layout, conditioning=conditioning, token_width=width)
  row = pack([[]], shape, pad=0).batch
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
          (config.train.rows, *leaf.shape[1:]), leaf.dtype, sharding=rows), row)


def compile_program(program: Program, options: dict[str, Any] | None = None) -> Compiled:
  """Compiles for the devices of the mesh; reports the memory even of a program that is too large.

  Args:
    program: the program from ``make_program``.
    options: compiler options.
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
  # The step donates the old state, so outputs alias arguments. The compiler leaves out arguments
  # that the step never reads, such as an unused head of the language model.
  arguments = max(stats.argument_size_in_bytes, resident_bytes(program))
  step = (arguments + stats.output_size_in_bytes - stats.alias_size_in_bytes
          + stats.temp_size_in_bytes)
  return result(step, compiled.as_text())


def shard_bytes(tree: Any, on_host: bool = False) -> float:
  """Bytes per device of a tree of ``ShapeDtypeStruct``, in device memory or in host memory."""
  return float(sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                   for leaf in jax.tree.leaves(tree)
                   if (leaf.sharding.memory_kind == memory.HOST) == on_host))


def resident_bytes(program: Program) -> float:
  """Bytes per device of state, frozen parameters and batch, without the autoencoder."""
  frozen = {group: tree for group, tree in program.blueprint.frozen.items()
            if group != AUTOENCODER}
  return shard_bytes((program.blueprint.state, frozen, program.batch))


def _memory(program: Program, step: float) -> Memory:
  """Adds the memory held outside the step to ``step``, the step's own peak in bytes."""
  state, frozen = program.blueprint.state, program.blueprint.frozen
  autoencoder = frozen.get(AUTOENCODER, {})
  whole = float(sum(leaf.size * leaf.dtype.itemsize
                    for leaf in trees.flatten(autoencoder).values()))
  batch = shard_bytes(program.batch)
  return Memory(
      parameters=shard_bytes((state.params, state.ema)), optimizer=shard_bytes(state.opt_state),
      frozen=shard_bytes(frozen) + whole, batches=2 * batch,
      temporary=max(0.0, step - resident_bytes(program)),
      peak=step + shard_bytes(autoencoder) + whole + batch,
      host=shard_bytes(state, on_host=True))
