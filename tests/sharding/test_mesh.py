"""Only the axes on the left cross the slow network between slices of TPUs or nodes of GPUs."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.core.errors import UserError
from jaxgen.planning.topology import devices_of
from jaxgen.planning.topology import parse
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class GPU:
  """What a mesh reads of a device."""

  id: int
  process_index: int
  slice_index: int
  platform: str = 'gpu'


def grid(devices, attribute, **sizes):
  """The mesh with a number in place of each device: [data, fsdp, context, tensor]."""
  mesh = make_mesh(ConfigDict(dict(data=-1, fsdp=1, context=1, tensor=1) | sizes), devices)
  return np.vectorize(lambda device: getattr(device, attribute), otypes=[int])(mesh.devices)


@pytest.fixture(scope='module')
def two_slices():
  return devices_of(parse('tpu:v5p:2x2x1*2'))


@pytest.mark.parametrize('sizes', [dict(fsdp=2, tensor=2), dict(fsdp=4), dict(context=2), {}])
def test_data_alone_crosses_from_slice_to_slice(two_slices, sizes):
  slices = grid(two_slices, 'slice_index', **sizes)
  assert set(slices.flat) == {0, 1}
  half = len(slices) // 2
  assert {*slices[:half].flat} == {0} and {*slices[half:].flat} == {1}


def test_a_slice_is_arranged_along_its_torus(two_slices):
  coords = make_mesh(ConfigDict(dict(data=2, fsdp=2, context=1, tensor=2)), two_slices).devices
  for neighbours in coords.reshape(-1, 2):
    one, other = (np.array(device.coords) for device in neighbours)
    assert np.abs(one - other).sum() == 1


def test_slices_that_data_cannot_cross(two_slices):
  with pytest.raises(UserError, match=r'mesh\.data = 1: must be a multiple of the 2 slices'):
    grid(two_slices, 'id', data=1, fsdp=-1)


@pytest.mark.parametrize('name, sizes', [
    ('tpu:v5p:2x2x1*2', dict(fsdp=2)), ('tpu:v5p:4x4x4', dict(fsdp=8)),
    ('tpu:v5p:4x4x4', dict(fsdp=64, data=1)), ('tpu:v5p:4x4x4', dict(fsdp=2, tensor=4)),
    ('tpu:v5p:4x4x4', dict(tensor=8)), ('tpu:v6e:4x4', dict(context=2))])
def test_hosts_of_a_torus_feed_all_rows_and_none_twice(name, sizes):
  devices = devices_of(parse(name))
  mesh = make_mesh(ConfigDict(dict(data=-1, fsdp=1, context=1, tensor=1) | sizes), devices)
  rows = 2 * mesh.shape['data'] * mesh.shape['fsdp']
  fed = {process: partition.process_rows(mesh, rows, process)
         for process in {device.process_index for device in devices}}
  parts = sorted(set(fed.values()))
  assert [row for part in parts for row in range(*part)] == list(range(rows))
  held = {process: set() for process in fed}
  for device, (block,) in partition.row_sharding(mesh, rows).devices_indices_map((rows,)).items():
    held[device.process_index] |= set(range(rows)[block])
  assert all(high - low == len(held[process]) for process, (low, high) in fed.items())


def nodes(process_of):
  """Four nodes of four GPUs; the launcher says which process each GPU belongs to."""
  devices = [GPU(id=4 * process_of(node, gpu) + gpu, process_index=process_of(node, gpu),
                 slice_index=node) for gpu in range(4) for node in range(4)]
  return sorted(devices, key=lambda device: (device.process_index, device.id))


@pytest.mark.parametrize('process_of', [
    lambda node, gpu: node,  # a process for each node
    lambda node, gpu: 4 * node + gpu,  # one for each GPU, node after node
    lambda node, gpu: 4 * gpu + node])  # the same dealt out to the nodes in turn
def test_gpus_of_a_node_stay_together(process_of):
  placed = grid(nodes(process_of), 'slice_index', fsdp=2, tensor=2)
  assert placed.reshape(4, -1).tolist() == [[node] * 4 for node in range(4)]
  wide = grid(nodes(process_of), 'slice_index', fsdp=8, tensor=2)
  assert (wide == wide[..., :1]).all()  # fsdp spans the nodes, tensor lies within each
