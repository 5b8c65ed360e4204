"""The mixture: draws follow the shares of the moment and depend on nothing else."""

import numpy as np
import pytest
from scipy import stats

from jaxgen.core.errors import UserError
from jaxgen.data.mixture import Mixture
from jaxgen.data.mixture import uniform

RAMP = {'image': (0.75, 0.25), 'pair': (0.25, 0.75)}
DRAWS = 20_000


@pytest.mark.parametrize('progress', [0.0, 0.25, 0.5, 0.8, 1.0])
def test_draws_follow_a_ramp(progress):
  mixture = Mixture(RAMP, seed=3)
  counts = np.bincount([mixture.draw(row % 8, row // 8, progress) for row in range(DRAWS)],
                       minlength=2)
  share = 0.75 - 0.5 * progress
  np.testing.assert_allclose(mixture.shares(progress), [share, 1 - share])
  assert stats.chisquare(counts, DRAWS * mixture.shares(progress)).pvalue > 1e-3
  assert stats.chisquare(counts, [DRAWS * (share + 0.05), DRAWS * (0.95 - share)]).pvalue < 1e-6


def test_three_sources_and_a_stage():
  mixture = Mixture({'a': (1.0, 0.0, 0.0), 'b': (0.0, 1.0, 1.0), 'c': (1.0,)}, seed=0)
  np.testing.assert_allclose(mixture.shares(0.0), [0.5, 0, 0.5])
  np.testing.assert_allclose(mixture.shares(0.25), [0.25, 0.25, 0.5])
  np.testing.assert_allclose(mixture.shares(0.9), [0, 0.5, 0.5])
  draws = [mixture.draw(0, number, 0.25) for number in range(DRAWS)]
  assert stats.chisquare(np.bincount(draws), DRAWS * mixture.shares(0.25)).pvalue > 1e-3
  assert not any(mixture.draw(0, number, 0.9) == 0 for number in range(1000))


def test_order_of_the_config_does_not_matter():
  forth, back = Mixture(RAMP, 1), Mixture(dict(reversed(RAMP.items())), 1)
  assert forth.names == back.names == ('image', 'pair')
  assert all(forth.draw(0, n, 0.3) == back.draw(0, n, 0.3) for n in range(200))


def test_rows_and_seeds_are_independent():
  def draws(seed, row):
    mixture = Mixture(RAMP, seed)
    return np.asarray([mixture.draw(row, number, 0.5) for number in range(4000)])
  for one, other in ((draws(0, 0), draws(0, 1)), (draws(0, 0), draws(1, 0))):
    assert abs((one == other).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_uniform_is_uniform_and_addressable():
  values = [uniform(0, 'test', 1, number) for number in range(5000)]
  assert stats.kstest(values, 'uniform').pvalue > 1e-3
  assert uniform(0, 'test', 1, 77) == values[77] != uniform(0, 'other', 1, 77)


def test_no_share_at_all_is_refused():
  with pytest.raises(UserError, match='all shares are 0 at 50% of training'):
    Mixture({'a': (1.0, 0.0, 1.0)}, 0)
