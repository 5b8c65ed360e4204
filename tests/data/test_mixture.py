"""The mixture: schedules to the letter, and draws that follow the shares of the moment."""

import numpy as np
import pytest
from scipy import stats

from jaxgen.core.errors import UserError
from jaxgen.data.mixture import Mixture
from jaxgen.data.mixture import cocktail_mix
from jaxgen.data.mixture import flat
from jaxgen.data.mixture import flat_mix
from jaxgen.data.mixture import inverse_size
from jaxgen.data.mixture import stage_mix
from jaxgen.data.mixture import uniform

RAMP = {'image': (0.75, 0.25), 'pair': (0.25, 0.75)}
SIZES = {'a': 100, 'b': 300, 'c': 600}
SEVEN = np.arange(7) / 6


def table(shares, interpolation='linear', at=SEVEN):
  mixture = Mixture(shares, 0, interpolation)
  return [mixture.shares(progress).round(4).tolist() for progress in at]


def draws(mixture, progress, count):
  return np.bincount([mixture.draw(row % 8, row // 8, progress) for row in range(count)],
                     minlength=len(mixture.names))


@pytest.mark.parametrize('progress', [0.0, 0.25, 0.5, 0.8, 1.0])
def test_draws_follow_a_ramp(progress):
  mixture, count = Mixture(RAMP, seed=3), 20_000
  share = 0.75 - 0.5 * progress
  np.testing.assert_allclose(mixture.shares(progress), [share, 1 - share])
  found = draws(mixture, progress, count)
  assert stats.chisquare(found, count * mixture.shares(progress)).pvalue > 1e-3
  assert stats.chisquare(found, [count * (share + 0.05), count * (0.95 - share)]).pvalue < 1e-6


def test_draws_follow_a_cocktail():
  """1e5 draws at five points of training, in five of six phases (F33)."""
  count = 100_000
  mixture = Mixture(cocktail_mix('fedcba'), 1, 'step')
  for progress, phase in ((0.2, 1), (0.4, 2), (0.5, 3), (0.8, 4), (1.0, 5)):
    expected = np.zeros(6)
    expected[6 - phase:] = 0.2 / phase
    expected[5 - phase] = 0.8
    np.testing.assert_allclose(mixture.shares(progress), expected)
    found, drawn = draws(mixture, progress, count), expected > 0
    assert found[~drawn].sum() == 0
    assert stats.chisquare(found[drawn], count * expected[drawn]).pvalue > 1e-3


def test_golden_knots():
  assert table({'a': (1.0,), 'b': (3.0,)}) == [[0.25, 0.75]] * 7
  assert table(RAMP) == [[0.75, 0.25], [0.6667, 0.3333], [0.5833, 0.4167], [0.5, 0.5],
                         [0.4167, 0.5833], [0.3333, 0.6667], [0.25, 0.75]]
  knots = {'a': ((0.5, 1.0), (1.0, 3.0)), 'b': (1.0,)}
  assert table(knots) == [[0.5, 0.5]] * 4 + [[0.625, 0.375], [0.7, 0.3], [0.75, 0.25]]
  assert table(knots, 'step') == [[0.5, 0.5]] * 6 + [[0.75, 0.25]]


def test_golden_schedules():
  assert table(flat_mix('abc', SIZES, inverse=False)) == [[0.1, 0.3, 0.6]] * 7
  assert table(flat_mix('abc', SIZES)) == [[0.3333] * 3] * 7
  third, sixth = [0.3333, 0, 0.3333, 0, 0.3333, 0], [0.1667] * 6
  assert table(stage_mix([['a', 'c', 'e'], ['b', 'd', 'f']]), 'step') == [third] * 3 + [sixth] * 4
  assert table(cocktail_mix(['easy', 'fair', 'hard']), 'step') == (
      [[1, 0, 0]] * 2 + [[0.2, 0.8, 0]] * 2 + [[0.1, 0.1, 0.8]] * 3)


def test_a_step_jumps_at_its_knot():
  just = np.nextafter(0.25, 0)
  assert table({'a': ((0.0, 1.0), (0.25, 3.0)), 'b': (1.0,)}, 'step', at=[just, 0.25]) == [
      [0.5, 0.5], [0.75, 0.25]]
  even = {'a': (1.0, 0.0, 1.0, 0.0), 'b': (0.0, 1.0, 0.0, 1.0)}
  assert table(even, 'step', at=[0, just, 0.25, 0.5, 0.75, 1]) == [
      [1, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]
  # The phases of a run of 15K steps, as a step's progress is computed (A08).
  mixture = Mixture(cocktail_mix('abcdef'), 0, 'step')
  for phase in range(6):
    for step, count in ((2500 * phase, phase + 1), (2500 * phase + 2499, phase + 1)):
      assert (mixture.shares(step / 15_000) > 0).sum() == count


def test_a_schedule_within_a_share():
  """The second stage of iMontage: edits 0.1, a cocktail of tasks 0.9 (L031, A08)."""
  mixture = Mixture({'edit': (0.1,)} | cocktail_mix(['multi', 'story'], total=0.9), 0, 'step')
  np.testing.assert_allclose(mixture.shares(0.0), [0.1, 0.9, 0])
  np.testing.assert_allclose(mixture.shares(0.5), [0.1, 0.18, 0.72])
  for shares in (stage_mix(['a', 'bc'], total=0.9), flat_mix('abc', SIZES, total=0.9)):
    assert sum(knots[-1][1] if isinstance(knots[-1], tuple) else knots[-1]
               for knots in shares.values()) == pytest.approx(0.9)


def test_sizes():
  assert flat(SIZES) == {'a': 0.1, 'b': 0.3, 'c': 0.6}
  assert inverse_size(SIZES) == inverse_size(SIZES | {'b': 600})
  # A record weighs the inverse of its source's size.
  weights = {name: share / SIZES[name] for name, share in inverse_size(SIZES).items()}
  assert weights['a'] == pytest.approx(3 * weights['b']) == pytest.approx(6 * weights['c'])
  with pytest.raises(UserError, match='^size of source b = 0: use the number of its records'):
    flat({'a': 3, 'b': 0})


def test_order_of_the_config_does_not_matter():
  forth, back = Mixture(RAMP, 1), Mixture(dict(reversed(RAMP.items())), 1)
  assert forth.names == back.names == ('image', 'pair')
  assert all(forth.draw(0, n, 0.3) == back.draw(0, n, 0.3) for n in range(200))


def test_rows_and_seeds_are_independent():
  def drawn(seed, row):
    mixture = Mixture(RAMP, seed)
    return np.asarray([mixture.draw(row, number, 0.5) for number in range(4000)])
  for one, other in ((drawn(0, 0), drawn(0, 1)), (drawn(0, 0), drawn(1, 0))):
    assert abs((one == other).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_uniform_is_uniform_and_addressable():
  values = [uniform(0, 'test', 1, number) for number in range(5000)]
  assert stats.kstest(values, 'uniform').pvalue > 1e-3
  assert uniform(0, 'test', 1, 77) == values[77] != uniform(0, 'other', 1, 77)
  # Pinned, so that a resumed run draws what it would have drawn.
  assert uniform(3, 'mixture', 2, 5) == 0.14213005365457587


@pytest.mark.parametrize('shares, interpolation, message', [
    ({'a': (1.0, 0.0, 1.0)}, 'linear', 'all shares are 0 at 50% of training'),
    ({'a': ((0.2, 0.0), (0.4, 1.0))}, 'step', 'all shares are 0 at 0% of training'),
    ({'a': ((0.0, 1.0), (0.4, 0.0)), 'b': ((0.0, 0.0), (0.7, 1.0))}, 'step',
     'all shares are 0 at 40% of training'),
    ({'a': ()}, 'linear', r'sources.a.share = \(\): give one or more shares'),
    ({'a': (1.0, (0.5, 1.0))}, 'linear', 'give one or more shares, or pairs'),
    ({'a': ((0.0, 1.0), (0.5,))}, 'linear', 'give one or more shares, or pairs'),
    ({'a': ('1', 1.0)}, 'linear', 'sources.a.share = .*: shares and progress must be numbers'),
    ({'a': ((0.0, 1.0), (0.5, None))}, 'linear', 'shares and progress must be numbers'),
    ({'a': ((0.5, 1.0), (0.5, 2.0))}, 'linear', 'must rise from knot to knot'),
    ({'a': ((0.5, 1.0), (1.5, 2.0))}, 'linear', 'within 0 to 1'),
    ({'a': (1.0, -1.0)}, 'linear', 'sources.a.share = .*: shares must be 0 or more'),
    ({'a': (1.0,)}, 'cubic', "^config.data.interpolation = 'cubic': use one of linear"),
])
def test_what_is_no_schedule_is_refused(shares, interpolation, message):
  with pytest.raises(UserError, match=message):
    Mixture(shares, 0, interpolation)
