"""Position schemes are plain tables."""

import numpy as np

from jaxgen.data import positions


def test_flux_scheme():
  table = positions.image_positions(2, 3)
  np.testing.assert_array_equal(
      table, [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]])
  assert table.dtype == np.int32


def test_grid_and_text():
  np.testing.assert_array_equal(positions.grid_positions(2, 2), [[0, 0], [0, 1], [1, 0], [1, 1]])
  np.testing.assert_array_equal(positions.text_positions(3), [[0] * 3, [1] * 3, [2] * 3])


def test_shared_tables_cannot_be_changed():
  assert not positions.image_positions(2, 3).flags.writeable
  assert not positions.grid_positions(2, 3).flags.writeable
