"""The least time that a step can take on given hardware, and what keeps it from less."""

import dataclasses
from collections.abc import Sequence

from jaxgen.planning.collectives import Collective
from jaxgen.planning.program import Memory
from jaxgen.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Bound:
  """Seconds of one step if every unit ran at its peak.

  Attributes:
    compute: matrix products, with those that rematerialisation repeats.
    memory: reading and writing the state once.
    links: collectives over ICI or NVLink.
    network: collectives over DCN or InfiniBand.
    waiting: the part of the collectives during which the program schedules nothing else.
  """

  compute: float
  memory: float
  links: float
  network: float
  waiting: float

  @property
  def seconds(self) -> float:
    """No step is shorter: what runs one after the other adds up, of the rest the longest counts."""
    return max(self._limits().values())

  @property
  def bounded_by(self) -> str:
    """The longest of them."""
    limits = self._limits()
    return max(limits, key=limits.get)

  @property
  def beyond_compute(self) -> float:
    """Share of the compute seconds that comes on top of them."""
    return self.seconds / self.compute - 1

  def _limits(self) -> dict[str, float]:
    computing = 'compute and waiting for collectives' if self.waiting else 'compute'
    return {computing: self.compute + self.waiting, 'memory bandwidth': self.memory,
            'links': self.links, 'network': self.network}


def bound(flops: float, memory: Memory, collectives: Sequence[Collective], topology: Topology
          ) -> Bound:
  """The bound of a step.

  Args:
    flops: of all devices together.
    memory: of one device.
    collectives: that one device takes part in.
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
