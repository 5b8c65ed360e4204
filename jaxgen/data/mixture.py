"""The mixture: which source each sample comes from, as shares over the course of training."""

import zlib
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import user_error


def uniform(seed: int, purpose: str, *counters: int) -> float:
  """A number in [0, 1) that depends on nothing but the arguments (at most three counters)."""
  key = [seed, zlib.crc32(purpose.encode())]
  counter = [0] * (4 - len(counters)) + list(counters)
  return np.random.Generator(np.random.Philox(key=key, counter=counter)).random()


class Mixture:
  """Shares of sources as knots spread evenly over training, interpolated and normalised.

  Shares are of samples drawn, so the size of a data set has no influence. A share of one knot is
  constant, two make a ramp, and more follow any schedule.

  Args:
    shares: source name -> knots. Sources are numbered by sorted name, so that the order in which
      a config lists them does not matter.
    seed: of the draws.

  Raises:
    UserError: at some knot all shares are 0.
  """

  def __init__(self, shares: Mapping[str, Sequence[float]], seed: int):
    self.names = tuple(sorted(shares))
    self._seed = seed
    self._knots = [np.asarray(shares[name], np.float64) for name in self.names]
    for knots in self._knots:
      for progress in np.linspace(0, 1, len(knots)):
        if not self._raw(progress).sum() > 0:
          raise user_error('config.data.sources', dict(shares),
                           f'all shares are 0 at {progress:.0%} of training; raise one')

  def shares(self, progress: float) -> np.ndarray:
    """The shares at ``progress`` in [0, 1] of training; f64[sources], of sum 1."""
    raw = self._raw(progress)
    return raw / raw.sum()

  def draw(self, row: int, number: int, progress: float) -> int:
    """The source of draw ``number`` of a global row: an index into ``names``."""
    if len(self.names) == 1:
      return 0
    edges = np.cumsum(self.shares(progress))
    point = uniform(self._seed, 'mixture', row, number) * edges[-1]
    chosen = np.searchsorted(edges, point, 'right')
    return int(min(chosen, len(self.names) - 1))

  def _raw(self, progress: float) -> np.ndarray:
    return np.asarray([np.interp(progress, np.linspace(0, 1, len(knots)), knots)
                       if len(knots) > 1 else knots[0] for knots in self._knots])
