"""The batch on other devices: how it is divided, and what the user is told."""

import jax
import pytest
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.sharding.hosts import Hosts
from jaxgen.sharding.mesh import make_mesh
from jaxgen.operations import elastic

ALONE = Hosts(None, 0, 1)


@pytest.fixture
def start(tiny_config, tmp_path):
  """Starts the run of the test on so many devices; returns the topology and what is said."""
  tiny_config.train.rows = 32

  def begin(devices, processes=1, accumulate=1, **mesh):
    tiny_config.train.accumulate = accumulate
    tiny_config.mesh.update(mesh)
    before = elastic.last(epath.Path(tmp_path))
    now = elastic.plan(tiny_config, make_mesh(tiny_config.mesh, jax.devices()[:devices]),
                       processes, str(tmp_path))
    elastic.save(now, epath.Path(tmp_path), ALONE)
    return now, elastic.changes(before, now, 32)

  return begin


def test_fewer_devices_take_more_micro_batches_and_more_take_fewer_again(start):
  first, said = start(8)
  assert (first.accumulate, first.device_rows, said) == (1, 4, '')
  less, said = start(2, processes=2)
  assert (less.accumulate, less.device_rows) == (4, 4)
  assert said == ('; devices 8 -> 2, processes 1 -> 2, mesh.data 8 -> 2, micro-batches 1 -> 4; '
                  'a step still takes 32 rows')
  assert start(8)[0] == first
  assert start(8)[1] == ''


def test_micro_batches_of_the_config_are_where_it_begins(start):
  assert start(4, accumulate=2)[0].device_rows == 4
  assert start(8, accumulate=2)[0].accumulate == 1
  assert start(2, accumulate=2)[0].accumulate == 4
  # The user decides anew.
  anew, said = start(2, accumulate=8)
  assert (anew.accumulate, anew.device_rows) == (8, 2) and 'micro-batches 4 -> 8' in said


def test_devices_along_other_axes_do_not_change_the_rows(start):
  assert start(8, data=-1, tensor=2)[0].device_rows == 8
  now, said = start(4, data=-1, tensor=1)
  assert now.accumulate == 1
  assert said == '; devices 8 -> 4, mesh.tensor 2 -> 1; a step still takes 32 rows'


def test_the_config_gets_the_micro_batches_and_stays_locked(start, tiny_config):
  start(8)
  tiny_config.lock()
  applied = elastic.applied(tiny_config, start(4)[0])
  assert (applied.train.accumulate, tiny_config.train.accumulate) == (2, 1)
  assert applied.is_locked


@pytest.mark.parametrize('damage', [lambda text: text[:len(text) // 2], lambda text: '{}',
                                    lambda text: text.replace('asked', 'aksed')])
def test_a_damaged_topology_is_named(start, tmp_path, damage):
  start(8)
  file = tmp_path / elastic.FILE
  file.write_text(damage(file.read_text()))
  with pytest.raises(UserError, match='topology.json: damaged .*; remove it'):
    start(8)
