"""Names of hardware, and what is said where a name or a compiler is missing."""

import pathlib

import pytest

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.planning.topology import devices_of
from jaxgen.planning.topology import parse

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('name, size, domain, slices', [
    ('tpu:v5p:4x4x8', 128, 128, 1), ('tpu:v6e:16x16', 256, 256, 1),
    ('tpu:v5p:4x4x8*2', 256, 128, 2), ('gpu:h100:8x8', 64, 8, 1), ('gpu:h800:24x8', 192, 8, 1)])
def test_sizes(name, size, domain, slices):
  topology = parse(name)
  assert (topology.size, topology.domain, topology.slices) == (size, domain, slices)


@pytest.mark.parametrize('name', [
    'v5p', 'tpu:v5p', 'tpu:v9:4x4x4', 'tpu:v5p:4x4', 'tpu:v6e:4x4x4', 'tpu:v5p:4x4x0',
    'gpu:h100:8', 'gpu:h100:8x8*2', 'tpu:v5p:4x4x4*0', 'gpu:a100:8x8'])
def test_names_that_mean_nothing(name):
  with pytest.raises(UserError, match=r'--topology = ') as error:
    parse(name)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('topology, message', [
    # The tests' environment has the compiler for TPUs, never the one for GPUs: 4.6 GB.
    ('gpu:h800:1x8', "its compiler is not installed; pip install --constraint constraints.txt "
     "--editable '.[plan-gpu]' in an environment of its own"),
    ('tpu:v9:8x8', 'knows tpu:v5p, tpu:v6e, gpu:h100, gpu:h800'),
])
def test_the_command_ends_in_one_clear_line(capsys, topology, message):
  config = ROOT / 'configs/plans/flux_12b.py'
  assert cli.main(['plan', f'--config={config}', f'--topology={topology}']) == 1
  assert capsys.readouterr() == ('', f'jaxgen: --topology = {topology!r}: {message}\n')


def test_numbers_that_cannot_be_written_are_refused_before_anything_is_compiled(capsys, tmp_path):
  (tmp_path / 'file').write_text('')
  config, file = ROOT / 'configs/plans/flux_12b.py', tmp_path / 'file/plan.json'
  assert cli.main(['plan', f'--config={config}', '--topology=tpu:v5p:4x4x4', f'--json={file}']) == 1
  assert capsys.readouterr() == (
      '', f'jaxgen: {file.parent}: could not be written (a file is in the place of a folder); free '
      'space, or choose another place\n')


def test_devices_of_slices_know_their_torus_and_their_slice():
  devices = devices_of(parse('tpu:v5p:2x2x1*2'))
  assert len(devices) == 8 and {device.slice_index for device in devices} == {0, 1}
  assert {tuple(device.coords) for device in devices} == {
      (0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)}
  assert {device.platform for device in devices} == {'tpu'}


@pytest.mark.parametrize('name', ['tpu:v6e:2x2', 'tpu:v6e:16x16'])
def test_a_v6e_has_two_dimensions(name):
  topology = parse(name)
  devices = devices_of(topology)
  assert len(devices) == topology.size and {device.device_kind for device in devices} == {
      'TPU v6 lite'}
