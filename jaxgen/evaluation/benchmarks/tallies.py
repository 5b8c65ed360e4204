"""Means over the items of a benchmark that know what is missing, with bootstrap intervals.

An item gives a ``Tally`` for each of its measures: a sum, the number of values in it, and the
number of values that could not be had. Pooled, tallies give means; a mean over resampled items is
the same sum with other weights, so one summary gives the value and its interval.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLED = 1000  # times that items are drawn again for an interval
SPAN = (2.5, 97.5)  # percentiles of a 95 % interval


class Tally(NamedTuple):
  """Values of one measure of one item: their sum, how many there are, how many are missing."""

  total: float
  count: int = 1
  missing: int = 0


class Mean(NamedTuple):
  """A mean f64[T], one for each resampling; NaN where there is no value.

  Attributes:
    value: of the scores that could be read.
    count, missing: numbers of scores behind it, and of those that could not be read.
  """

  value: np.ndarray
  count: int
  missing: int

  def times(self, factor: 'float | Mean') -> 'Mean':
    """The product with a number or with another mean."""
    if isinstance(factor, Mean):
      return Mean(self.value * factor.value, self.count + factor.count,
                  self.missing + factor.missing)
    return Mean(self.value * factor, self.count, self.missing)


Measures = Mapping[str, Tally]


def tally(value: float | bool | None) -> Tally:
  """One value; None is a missing one."""
  return Tally(0.0, 0, 1) if value is None else Tally(float(value))


def tally_of(values: Iterable[float | bool | None]) -> Tally:
  """Several values of one item, None for those that are missing."""
  values = list(values)
  found = [float(value) for value in values if value is not None]
  return Tally(sum(found), len(found), len(values) - len(found))


class Pool:
  """The measures of all items, summed with one weight per item and resampling.

  Args:
    items: (group, measures) of each.
    weights: f64[T, items].
  """

  def __init__(self, items: Sequence[tuple[str, Measures]], weights: np.ndarray):
    self._items, self._weights = items, weights
    self.groups = list(dict.fromkeys(group for group, _ in items))
    self.names = list(dict.fromkeys(name for _, measures in items for name in measures))

  def mean(self, name: str, groups: Iterable[str] | None = None) -> Mean:
    """The mean of a measure over the items of some groups; of all unless given."""
    chosen = None if groups is None else set(groups)
    found = [(index, measures[name]) for index, (group, measures) in enumerate(self._items)
             if name in measures and (chosen is None or group in chosen)]
    totals = np.array([tally.total for _, tally in found], float)
    counts = np.array([tally.count for _, tally in found], float)
    weights = self._weights[:, [index for index, _ in found]]
    with np.errstate(invalid='ignore', divide='ignore'):
      value = (weights @ totals) / (weights @ counts)
    return Mean(value, int(counts.sum()), sum(tally.missing for _, tally in found))

  def has(self, name: str, groups: Iterable[str]) -> bool:
    """Whether any item of the groups has this measure, be it missing."""
    chosen = set(groups)
    return any(group in chosen and name in measures for group, measures in self._items)


Table = dict[str, Mean]
Summary = Callable[[Pool], Table]


def means_of_all(pool: Pool) -> Table:
  """The mean of every measure over all items."""
  return {name: pool.mean(name) for name in pool.names}


def average(means: Iterable[Mean], weights: Sequence[float] | None = None) -> Mean:
  """The mean of means; ``weights`` need not add up to 1. NaN if one of them is."""
  means = list(means)
  shares = np.ones(len(means)) if weights is None else np.asarray(weights, float)
  values = np.stack([mean.value for mean in means])
  return Mean(np.tensordot(shares / shares.sum(), values, 1), sum(mean.count for mean in means),
              sum(mean.missing for mean in means))


def scores_of(items: Sequence[tuple[str, Measures]], summary: Summary, seed: int = 0
              ) -> dict[str, dict[str, float | int | None]]:
  """The table of a summary with 95 % intervals.

  Items are drawn again with replacement within their group, so that no group is ever empty and
  the images of one prompt stay together.

  Returns:
    metric -> ``value``, ``low``, ``high`` (None where nothing could be read), ``count`` and
    ``missing``.
  """
  table = summary(Pool(items, np.ones((1, len(items)))))
  spread = summary(Pool(items, _resampled([group for group, _ in items], seed)))
  found = {}
  for name, mean in table.items():
    values = spread[name].value
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, SPAN) if len(values) else (None, None)
    found[name] = dict(value=_number(mean.value[0]), low=_number(low), high=_number(high),
                       count=mean.count, missing=mean.missing)
  return found


def _resampled(groups: Sequence[str], seed: int) -> np.ndarray:
  """f64[RESAMPLED, items]: how often each item was drawn."""
  rng, weights = np.random.default_rng(seed), np.zeros((RESAMPLED, len(groups)))
  for group in dict.fromkeys(groups):
    own = [index for index, other in enumerate(groups) if other == group]
    weights[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), RESAMPLED)
  return weights


def _number(value: float | None) -> float | None:
  return None if value is None or not np.isfinite(value) else float(value)
