"""``jaxgen plan``: the train step of a config on a topology, compiled and summed up."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

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

# Of TPUs: what a device holds and sends is settled before machine code is made, which takes most of
# the time and is not looked at. Of GPUs: autotuning needs the GPU itself.
OPTIONS = {True: {'exec_time_optimization_effort': -1.0}, False: {'xla_gpu_autotune_level': 0}}


@dataclasses.dataclass(frozen=True)
class Plan:
  """All that is known of a step before it runs; sizes are bytes, times seconds.

  Attributes:
    topology: the hardware.
    config: of the run.
    mesh: axis -> devices along it.
    parameters: group -> {'trained', 'frozen'} -> number of parameters.
    memory: of one device.
    compile_seconds: that the compiler took; core_seconds adds up the cores it worked on.
    flops: {'trained', 'frozen'} -> {'dense', 'attention'} -> FLOPs of a step, all devices
      together. The gradient that passes through a frozen module counts as frozen.
    executed_flops: the same in one sum, with what rematerialisation repeats.
    collectives: of one device.
    bound: the least time of a step; None where the program did not compile as it does not fit.
    images: of a step.
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
    """Whether the peak stays below the memory of a device."""
    return self.memory.peak <= self.topology.chip.hbm_bytes

  @property
  def headroom(self) -> float:
    """Share of a device's memory that stays free; below 0 where it does not fit."""
    return 1 - self.memory.peak / self.topology.chip.hbm_bytes

  @property
  def model_flops(self) -> float:
    """FLOPs of a step without what rematerialisation repeats."""
    return sum(sum(kinds.values()) for kinds in self.flops.values())

  @property
  def images_per_second(self) -> float:
    """Of all devices together, at the bound."""
    return self.images / self.bound.seconds

  @property
  def device_hours(self) -> float:
    """Of ``train.steps`` steps at the bound."""
    return self.bound.seconds * self.config.train.steps * self.topology.size / 3600


def make_plan(config: ConfigDict, topology: Topology) -> Plan:
  """Compiles the train step of a config for a topology and reads off what it takes.

  Raises:
    UserError: a config that does not hold together or does not fit the number of devices, or
      hardware whose compiler is not installed.
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
      flops=split_tally(config, program.blueprint, count()), executed_flops=executed,
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
  """Images of a step whose rows are full of images of ``data.image_size``."""
  tokens = (config.data.image_size // program.layout.latent.factor)**2
  fit = min(config.data.segments_per_row, config.data.visual_tokens // tokens)
  return config.train.rows * max(fit, 1)
