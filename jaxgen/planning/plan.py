"""``jaxgen plan``: compiles a config's train step for a topology and summarises it."""

import dataclasses
import functools
from collections.abc import Mapping

from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.planning import collectives
from jaxgen.planning import roofline
from jaxgen.planning.program import Memory
from jaxgen.planning.program import Program
from jaxgen.planning.program import compile_program
from jaxgen.planning.program import make_program
from jaxgen.planning.topology import Topology
from jaxgen.planning.topology import devices_of
from jaxgen.training.flops import split_tally
from jaxgen.training.flops import step_tally

# Compiler options by is_tpu. TPU: memory and collectives are fixed before code generation, which
# takes most of the compile time and does not matter here. GPU: autotuning needs a real GPU.
OPTIONS = {True: {'exec_time_optimization_effort': -1.0}, False: {'xla_gpu_autotune_level': 0}}


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything known about a step before it runs; sizes in bytes, times in seconds.

  Attributes:
    topology: the hardware.
    config: the run's config.
    mesh: axis -> number of devices along it.
    parameters: group -> {'trained', 'frozen'} -> number of parameters.
    memory: memory use of one device.
    compile_seconds: wall time of the compilation.
    core_seconds: CPU time of the compilation, summed over cores.
    flops: {'trained', 'frozen'} -> {'dense', 'attention'} -> FLOPs per step, summed over devices.
      Gradients that pass through a frozen module count as frozen.
    executed_flops: FLOPs per step including rematerialisation, summed over devices.
    collectives: collectives of one device.
    bound: lower bound on the step time; None if the program is too large to compile.
    images: images per step.
  """

  topology: Topology
  config: ConfigDict
  mesh: Mapping[str, int]
  parameters: Mapping[str, Mapping[str, int]]
  memory: Memory
  compile_seconds: float
  core_seconds: float
  flops: Mapping[str, Mapping[str, float]]
  executed_flops: float
  collectives: tuple[collectives.Collective, ...]
  bound: roofline.Bound | None
  images: int

  @property
  def fits(self) -> bool:
    """Whether the peak fits the memory of a device."""
    return self.memory.peak <= self.topology.chip.hbm_bytes

  @property
  def headroom(self) -> float:
    """Share of a device's memory that stays free; negative if the step does not fit."""
    return 1 - self.memory.peak / self.topology.chip.hbm_bytes

  @property
  def model_flops(self) -> float:
    """FLOPs per step without rematerialisation."""
    return sum(sum(kinds.values()) for kinds in self.flops.values())

  @property
  def images_per_second(self) -> float:
    """Throughput of all devices together, at the bound."""
    return self.images / self.bound.seconds

  @property
  def device_hours(self) -> float:
    """Device-hours of ``train.steps`` steps, at the bound."""
    return self.bound.seconds * self.config.train.steps * self.topology.size / 3600


def make_plan(config: ConfigDict, topology: Topology) -> Plan:
  """Compiles the train step of a config for a topology and summarises the result.

  Raises:
    UserError: an invalid config, a mesh that does not match the number of devices, or hardware
      whose compiler is not installed.
  """
  program = make_program(config, devices_of(topology))
  compiled = compile_program(program, OPTIONS[topology.is_tpu])
  count = functools.partial(step_tally, config, program.blueprint, program.batch)
  executed = sum(count(repeated=True).values())
  found = tuple(collectives.collectives_of(
      compiled.text, list(program.mesh.devices.flat), topology)) if compiled.text else ()
  return Plan(
      topology=topology, config=config, mesh=dict(program.mesh.shape),
      parameters=_parameters(program), memory=compiled.memory,
      compile_seconds=compiled.seconds, core_seconds=compiled.core_seconds,
      flops=split_tally(program.blueprint, count()), executed_flops=executed,
      collectives=found,
      bound=roofline.bound(executed, compiled.memory, found, topology) if compiled.text else None,
      images=_images(config, program))


def _parameters(program: Program) -> dict[str, dict[str, int]]:
  def size(tree, group):
    return sum(leaf.size for leaf in trees.flatten(tree.get(group, {})).values())

  blueprint = program.blueprint
  return {group: dict(trained=size(blueprint.state.params, group),
                      frozen=size(blueprint.stored, group))
          for group in blueprint.groups}


def _images(config: ConfigDict, program: Program) -> int:
  """Images per step if rows are filled with images of ``data.image_size``."""
  tokens = (config.data.image_size // program.layout.latent.factor)**2
  fit = min(config.data.segments_per_row, config.data.visual_tokens // tokens)
  return config.train.rows * max(fit, 1)
