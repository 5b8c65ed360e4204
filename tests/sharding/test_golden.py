"""Where every parameter of the full-size systems lies, compared with a text file per config.

A change of the table of rules or of a model's axis names shows here as a diff. If it is meant:

  python tests/sharding/test_golden.py

writes the files anew; say in the commit why they moved.
"""

import math
import pathlib

import pytest
from jax.sharding import AbstractMesh

from jaxgen.config import load_config
from jaxgen.core import trees
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import AXES
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.registry import make_system

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).parent / 'golden'
# Config -> sizes of data, fsdp, context and tensor: every kind of axis is in use.
MESHES = {
    'duetgen/stage1': (2, 16, 1, 2), 'duetgen/stage2': (1, 32, 2, 1),
    'iomm/pretrain_b': (4, 8, 1, 2), 'iomm/pretrain_l': (4, 8, 1, 4),
    'iomm/pretrain_xl': (4, 8, 1, 2), 'iomm/finetune_xl_512': (1, 64, 1, 1),
    'imontage/pretrain': (1, 32, 2, 1), 'imontage/sft': (1, 16, 4, 1),
    'flux/base': (2, 16, 1, 2), 'qwen_image/base': (1, 64, 1, 1), 'z_image/base': (2, 8, 1, 2),
    'query_kontext/stage1': (4, 8, 1, 2), 'query_kontext/stage3': (4, 8, 1, 4),
    'plans/flux_12b': (1, 64, 1, 1), 'plans/hunyuan_video_13b': (2, 16, 2, 2)}


def describe(name: str) -> str:
  """A line for each parameter: path, shape, mesh axes of each dimension."""
  config = load_config(str(ROOT / f'configs/{name}.py'))
  system, table = make_system(config), with_changes(config.mesh.rules)
  mesh = AbstractMesh(MESHES[name], AXES)
  shapes, axes = trees.flatten(system.shapes()), trees.flatten(system.axes())
  lines = [f'mesh {" ".join(f"{axis}={size}" for axis, size in mesh.shape.items())}']
  for path, leaf in shapes.items():
    spec = partition.spec(axes[path], leaf.shape, mesh, path, table)
    places = [_name(entry) for entry in spec]
    lines.append(f'{path} [{",".join(map(str, leaf.shape))}] {" ".join(places)}'.rstrip())
  return '\n'.join(lines) + '\n'


def _name(entry: str | tuple[str, ...] | None) -> str:
  return '+'.join((entry,) if isinstance(entry, str) else entry or ('-',))


def file_of(name: str) -> pathlib.Path:
  return GOLDEN / f'{name.replace("/", "_")}.txt'


@pytest.mark.parametrize('name', MESHES)
def test_parameters_lie_where_they_did(name):
  found, golden = describe(name).splitlines(), file_of(name).read_text().splitlines()
  moved = sorted(set(found) ^ set(golden))
  assert not moved, '\n'.join(['see the docstring of this file', *moved[:20]])


@pytest.mark.parametrize('name', MESHES)
def test_no_large_parameter_is_whole_on_every_device(name):
  for line in file_of(name).read_text().splitlines()[1:]:
    path, shape, *places = line.split(' ')
    size = math.prod(int(side) for side in shape.strip('[]').split(',') if side)
    autoencoder = path.startswith('autoencoder/')  # every device encodes images of its own
    assert autoencoder or size < 2**22 or set(places) != {'-'}, line


if __name__ == '__main__':
  for each in MESHES:
    file_of(each).write_text(describe(each))
