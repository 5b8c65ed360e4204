"""Searches over meshes, micro-batch sizes and remat policies for plans that fit."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.models.layers.remat import REMAT
from jaxgen.planning.plan import Plan
from jaxgen.planning.plan import make_plan
from jaxgen.planning.topology import Topology

WIDEST_TENSOR = 8  # with more tensor parallelism, communication dominates
SMALLEST_SHARE = 128  # sharding parameters over more devices than this saves little memory


@dataclasses.dataclass(frozen=True)
class Setting:
  """One candidate setting; the global batch stays as in the config.

  Attributes:
    data, fsdp, tensor: sizes of the mesh axes.
    accumulate: micro-batches per step.
    remat: remat policy of the denoiser.
    share: rows of a micro-batch per device.
  """

  data: int
  fsdp: int
  tensor: int
  accumulate: int
  remat: str
  share: int

  def __str__(self):
    return (f'mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor}, '
            f'{self.accumulate} pieces of {self.share} rows, remat {self.remat}')

  def overrides(self) -> str:
    """The setting as command-line overrides."""
    return (f'--config.mesh.data={self.data} --config.mesh.fsdp={self.fsdp} '
            f'--config.mesh.tensor={self.tensor} --config.train.accumulate={self.accumulate} '
            f'--config.model.denoiser.remat={self.remat}')

  def applied(self, config: ConfigDict) -> ConfigDict:
    """A copy of the config with this setting applied."""
    config = ConfigDict(config.to_dict())
    config.mesh.update(data=self.data, fsdp=self.fsdp, tensor=self.tensor, context=1)
    config.train.accumulate = self.accumulate
    config.model.denoiser.remat = self.remat
    return config


def search(config: ConfigDict, topology: Topology, tries: int) -> list[tuple[Setting, Plan]]:
  """Compiles up to ``tries`` settings, the most promising first.

  Returns:
    The settings that fit and their plans, sorted by lower bound, fastest first.

  Raises:
    UserError: no setting divides the batch and the devices, or none of those tried fits.
  """
  fitting, failed = [], []
  left = list(settings(config, topology))
  if not left:
    raise user_error('config.train.rows', config.train.rows,
                     f'no mesh of {topology.size} devices divides it; use a multiple of that')
  while left and tries:
    setting, tries = left.pop(0), tries - 1
    try:
      plan = make_plan(setting.applied(config), topology)
    except UserError as error:  # for example heads that the mesh does not divide
      print(f'{setting}: {error}', file=sys.stderr, flush=True)
      continue
    verdict = f'{plan.bound.seconds:.3f} s' if plan.fits else 'does not fit'
    print(f'{setting}: {verdict}', file=sys.stderr, flush=True)
    (fitting if plan.fits else failed).append((setting, plan))
    left = worth_trying(left, setting, plan.fits)
  if not fitting:
    fix = f'raise --search, as {len(left)} are left' if left else 'take more devices'
    raise user_error('--topology', topology.name,
                     f'none of the {len(failed)} settings tried fits; {fix}')
  return sorted(fitting, key=lambda pair: pair[1].bound.seconds)


def settings(config: ConfigDict, topology: Topology) -> Iterator[Setting]:
  """All settings that divide batch and devices, least communication and recomputation first.

  On TPUs, fsdp stays within a slice. On GPUs, fsdp within a node comes before fsdp across nodes.
  """
  rows, found = config.train.rows, []
  for tensor in _powers(min(WIDEST_TENSOR, topology.domain)):
    for fsdp in _powers(topology.size // topology.slices):
      ways, rest = divmod(topology.size, tensor)
      if rest or ways % fsdp or (ways // fsdp) % topology.slices or rows % ways:
        continue
      for accumulate in _powers(rows // ways):
        if (rows // ways) % accumulate == 0:
          found += [Setting(ways // fsdp, fsdp, tensor, accumulate, remat,
                            rows // ways // accumulate) for remat in REMAT]
  order = list(REMAT)
  yield from sorted(found, key=lambda one: (
      one.tensor, order.index(one.remat), one.accumulate, one.fsdp > topology.domain,
      -min(one.fsdp, SMALLEST_SHARE)))


def worth_trying(left: Sequence[Setting], tried: Setting, fits: bool) -> list[Setting]:
  """Prunes settings that need not be compiled, given the result of one.

  If ``tried`` does not fit, settings with at least as many rows per device, as much state per
  device and as many saved activations do not fit either. If it fits, fewer rows per device or more
  recomputation on the same mesh gain nothing.
  """
  order = list(REMAT)

  def needless(other):
    rows = other.share - tried.share
    kept = order.index(tried.remat) - order.index(other.remat)
    if fits:
      return (other.fsdp, other.tensor) == (tried.fsdp, tried.tensor) and rows <= 0 and kept <= 0
    return other.tensor == tried.tensor and other.fsdp <= tried.fsdp and rows >= 0 and kept >= 0

  return [other for other in left if not needless(other)]


def to_text(pairs: Sequence[tuple[Setting, Plan]], best: int = 3) -> str:
  """The best few settings, each with the overrides that select it."""
  lines = []
  for setting, plan in pairs[:best]:
    lines += [f'{plan.bound.seconds:.4f} s, {plan.headroom:.0%} free: {setting}',
              f'  {setting.overrides()}']
  return '\n'.join(lines)


def _powers(limit: int) -> list[int]:
  return [2**exponent for exponent in range(limit.bit_length()) if 2**exponent <= limit]
