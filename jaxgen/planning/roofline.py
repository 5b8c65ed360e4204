"""Roofline: a lower bound on the step time, and the resource that limits it."""

import dataclasses
from collections.abc import Sequence

from jaxgen.planning.collectives import Collective
from jaxgen.planning.program import Memory
from jaxgen.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Bound:
  """Seconds per step with every resource at its peak rate.

  Attributes:
    compute: matrix products, including rematerialisation.
    memory: reading and writing the state once.
    links: collectives over ICI or NVLink.
    network: collectives over DCN or InfiniBand.
    waiting: collectives that do not overlap with computation.
  """

  compute: float
  memory: float
  links: float
  network: float
  waiting: float

  @property
  def seconds(self) -> float:
    """Lower bound: sequential parts add up; of resources used in parallel the slowest counts."""
    return max(self._limits().values())

  @property
  def bounded_by(self) -> str:
    """The resource that sets the bound."""
    limits = self._limits()
    return max(limits, key=limits.get)

  @property
  def beyond_compute(self) -> float:
    """Time of the bound beyond compute, as a share of the compute time."""
    return self.seconds / self.compute - 1

  def _limits(self) -> dict[str, float]:
    computing = 'compute and waiting for collectives' if self.waiting else 'compute'
    return {computing: self.compute + self.waiting, 'memory bandwidth': self.memory,
            'links': self.links, 'network': self.network}


def bound(flops: float, memory: Memory, collectives: Sequence[Collective], topology: Topology
          ) -> Bound:
  """The lower bound on the time of a step.

  Args:
    flops: FLOPs per step, summed over devices.
    memory: memory use of one device.
    collectives: collectives of one device.
    topology: the hardware.
  """
  seconds = [each.seconds(topology) for each in collectives]
  waiting = sum(sum(both) for each, both in zip(collectives, seconds) if not each.overlaps)
  state = memory.parameters + memory.optimizer
  return Bound(
      compute=flops / topology.size / topology.chip.flops,
      memory=(2 * state + memory.frozen) / topology.chip.hbm_bandwidth,
      links=sum(link for link, _ in seconds), network=sum(network for _, network in seconds),
      waiting=waiting)
