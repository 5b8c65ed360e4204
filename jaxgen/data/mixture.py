"""The mixture: which source each sample comes from, as shares over the course of training."""

import zlib
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from jaxgen.config.shares import Knots
from jaxgen.config.shares import Shares
from jaxgen.core.errors import user_error


def uniform(seed: int, purpose: str, *counters: int) -> float:
  """A number in [0, 1) that depends on nothing but the arguments (at most three counters)."""
  counter = [0] * (4 - len(counters)) + list(counters)
  key = _Key([seed, zlib.crc32(purpose.encode())])
  return np.random.Generator(np.random.Philox(key, counter=counter)).random()


class Mixture:
  """Shares of sources over the course of training, normalised at every draw.

  Shares are of samples drawn, so the size of a data set has no influence unless the shares are
  made from it (``flat``).

  Args:
    shares, interpolation: see ``Shares``. Sources are numbered by sorted name, so that the order
      in which a config lists them does not matter.
    seed: of the draws.
  """

  def __init__(self, shares: Mapping[str, Knots], seed: int, interpolation: str = 'linear'):
    self._shares, self._seed = Shares(shares, interpolation), seed
    self.names = self._shares.names
    self._latest = (0.0, np.cumsum(self.shares(0.0)))

  def shares(self, progress: float) -> np.ndarray:
    """The shares at ``progress`` in [0, 1] of training; f64[sources], of sum 1."""
    return self._shares.at(progress)

  def draw(self, row: int, number: int, progress: float) -> int:
    """The source of draw ``number`` of a global row: an index into ``names``."""
    if len(self.names) == 1:
      return 0
    before, edges = self._latest
    if before != progress:  # all rows of a step ask for the same progress
      edges = np.cumsum(self.shares(progress))
      self._latest = (progress, edges)
    point = uniform(self._seed, 'mixture', row, number) * edges[-1]
    chosen = np.searchsorted(edges, point, 'right')
    return int(min(chosen, len(self.names) - 1))


def flat(sizes: Mapping[str, int]) -> dict[str, float]:
  """Shares in proportion to the number of records, as if all sources were one pool (L033)."""
  total = _total(sizes)
  return {name: size / total for name, size in sizes.items()}


def inverse_size(sizes: Mapping[str, int]) -> dict[str, float]:
  """Shares where a record weighs the inverse of its source's size.

  Every source then gets the same share, whatever its size: tasks are treated equally (L022).
  """
  _total(sizes)
  return {name: 1 / len(sizes) for name in sizes}


def flat_mix(names: Sequence[str], sizes: Mapping[str, int], *, inverse: bool = True,
             total: float = 1.0) -> dict[str, Knots]:
  """FlatMix: all sources in one pool from beginning to end (L033).

  Args:
    names: the sources.
    sizes: source name -> number of records.
    inverse: weigh records by ``inverse_size``; else ``flat``.
    total: what the shares sum to, where other sources take the rest (L031).

  Returns:
    source name -> knots.
  """
  shares = (inverse_size if inverse else flat)({name: sizes[name] for name in names})
  return {name: (total * share,) for name, share in shares.items()}


def stage_mix(stages: Sequence[Collection[str]], *, total: float = 1.0) -> dict[str, Knots]:
  """StageMix: phases of equal length, each of which adds a group of sources (L033).

  The sources so far have equal shares. Knots are for the interpolation ``step``.

  Args:
    stages: the groups of source names, the first to come first.
    total: what the shares sum to.

  Returns:
    source name -> knots (progress, share).
  """
  phases = []
  for stage in range(len(stages)):
    names = [name for group in stages[:stage + 1] for name in group]
    phases.append({name: total / len(names) for name in names})
  return _phases(phases)


def cocktail_mix(order: Sequence[str], *, new: float = 0.8,
                 total: float = 1.0) -> dict[str, Knots]:
  """CocktailMix: phases of equal length, each of which adds one source (L032, A08).

  The new source has the share ``new``, those before it share the rest evenly; the first has its
  phase for itself. Knots are for the interpolation ``step``.

  Args:
    order: source names from the easiest to the hardest.
    new: share of the source that was added last.
    total: what the shares sum to.

  Returns:
    source name -> knots (progress, share).
  """
  phases = [{order[0]: total}]
  for phase in range(1, len(order)):
    former = dict.fromkeys(order[:phase], total * (1 - new) / phase)
    phases.append(former | {order[phase]: total * new})
  return _phases(phases)


class _Key(np.random.bit_generator.ISeedSequence):
  """Gives Philox its key as it is, without the system entropy that its argument ``key`` costs."""

  def __init__(self, key: Sequence[int]):
    self._key = np.asarray(key, np.uint64)

  def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
    assert (n_words, dtype) == (2, np.uint64), (n_words, dtype)
    return self._key


def _phases(phases: Sequence[Mapping[str, float]]) -> dict[str, Knots]:
  """Knots of phases of equal length; the last phase names every source."""
  return {name: tuple((index / len(phases), phase.get(name, 0.0))
                      for index, phase in enumerate(phases)) for name in phases[-1]}


def _total(sizes: Mapping[str, int]) -> int:
  for name, size in sizes.items():
    if size < 1:
      raise user_error(f'size of source {name}', size, 'use the number of its records')
  return sum(sizes.values())
