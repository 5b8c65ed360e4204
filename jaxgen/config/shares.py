"""Sampling shares of the data sources as a schedule over training, given by knots."""

from collections.abc import Mapping

import numpy as np

from jaxgen.core.errors import user_error

INTERPOLATIONS = ('linear', 'step')

Knots = tuple[float, ...] | tuple[tuple[float, float], ...]


class Shares:
  """Shares of the sources, normalised to sum 1 at every point of training.

  A share is given by knots: pairs ``(progress, share)`` with progress in [0, 1] of training, or
  shares alone, which are spread evenly. Before its first knot and after its last a share is
  constant.

  Args:
    knots: source name -> knots.
    interpolation: ``linear`` between knots, or ``step``, where a share holds until the next knot.
      Knots without progress are spread from 0 to 1 for ``linear``. For ``step`` they are placed
      at 0, 1/n, 2/n, ..., which gives n equal phases.
    where: section of the sources, for errors.

  Raises:
    UserError: knots that do not form a schedule, or a knot at which all shares are 0.
  """

  def __init__(self, knots: Mapping[str, Knots], interpolation: str = 'linear',
               where: str = 'config.data.sources'):
    if interpolation not in INTERPOLATIONS:
      raise user_error('config.data.interpolation', interpolation,
                       f'use one of {", ".join(INTERPOLATIONS)}')
    self.names = tuple(sorted(knots))
    self._step = interpolation == 'step'
    self._curves = [_curve(f'{where}.{name}.share', knots[name], self._step) for name in self.names]
    for progress in np.unique(np.concatenate([[0.0], *(places for places, _ in self._curves)])):
      if not self._raw(progress).sum() > 0:
        raise user_error(where, dict(knots),
                         f'all shares are 0 at {progress:.0%} of training; raise one')

  def at(self, progress: float) -> np.ndarray:
    """The shares at ``progress`` in [0, 1] of training; f64[sources], summing to 1."""
    raw = self._raw(progress)
    return raw / raw.sum()

  def _raw(self, progress: float) -> np.ndarray:
    return np.asarray([_at(places, values, progress, self._step)
                       for places, values in self._curves])


def _curve(where: str, knots: Knots, step: bool) -> tuple[np.ndarray, np.ndarray]:
  """Knot positions in [0, 1] and their shares, f64[n] each."""
  pairs = [isinstance(knot, (tuple, list)) for knot in knots]
  if not knots or any(pairs) != all(pairs) or (any(pairs) and {len(k) for k in knots} != {2}):
    raise user_error(where, knots, 'give one or more shares, or pairs (progress, share)')
  numbers = [number for knot in knots for number in (knot if any(pairs) else (knot,))]
  if not all(isinstance(number, (int, float)) for number in numbers):
    raise user_error(where, knots, 'shares and progress must be numbers')
  if any(pairs):
    places, values = np.asarray(knots, np.float64).T
  else:
    values = np.asarray(knots, np.float64)
    places = np.arange(len(knots)) / (len(knots) if step else max(len(knots) - 1, 1))
  if places[0] < 0 or places[-1] > 1 or (np.diff(places) <= 0).any():
    raise user_error(where, knots, 'progress must rise from knot to knot within 0 to 1')
  if (values < 0).any():
    raise user_error(where, knots, 'shares must be 0 or more')
  return places, values


def _at(places: np.ndarray, values: np.ndarray, progress: float, step: bool) -> float:
  if step:
    return values[max(np.searchsorted(places, progress, 'right') - 1, 0)]
  return np.interp(progress, places, values)
