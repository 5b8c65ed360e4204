"""The benchmarks' own code: every model still takes what they hand it."""

import argparse
import importlib
import math
import pathlib

import jax
import pytest
import torch

from jaxgen.config import load_config
from jaxgen.planning.topology import parse
from jaxgen.sharding.mesh import AXES

TOOLS = pathlib.Path(__file__).parent.parent / 'tools'
SMALL = argparse.Namespace(width=128, layers=2, side=8, text=32, steps=1, unroll=1)


@pytest.fixture
def tool(monkeypatch):
  """A module of ``tools/`` by its name."""
  monkeypatch.syspath_prepend(str(TOOLS))
  return importlib.import_module


@pytest.fixture
def bench_models(tool):
  return tool('bench_models')


def test_models_give_outputs_of_their_classes_shapes(bench_models):
  for name, make in bench_models.MODELS.items():
    pair = make(SMALL)
    ours = jax.eval_shape(pair.forward, pair.params, pair.inputs)
    with torch.no_grad():
      assert ours.size == pair.call(pair.model).numel(), name


def test_both_sides_write_the_same_words(tool):
  bench = tool('bench_decode')
  sides = bench.writing(bench.bench_models.make_qwen2_5_vl(SMALL), SMALL, 3)
  assert sides['jaxgen']() == sides['torch']() > 0


def test_flops_of_a_grouped_convolution(bench_models):
  """The output takes 2 products a tap of its own group, each of the two gradients as many."""
  convolution = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4)
  images = torch.zeros(1, 8, 5, 5, requires_grad=True)
  assert bench_models.count_flops(lambda: convolution(images).sum().backward()) == 3 * (
      2 * (8 * 5 * 5) * (2 * 3 * 3))


def test_the_rows_of_every_plan_divide_over_its_devices(tool):
  """Whatever the compiler says of it hours later: meshes, rows and pieces go together."""
  planned = list(tool('plans').rows())
  for name, topology, overrides in planned:
    config = load_config(str(TOOLS.parent / f'configs/{name}.py'),
                         [word.removeprefix('--config.') for word in overrides.split()])
    sizes, count = {axis: config.mesh[axis] for axis in AXES}, parse(topology).size
    given = math.prod(size for size in sizes.values() if size > 0)
    ways = {axis: count // given if size < 0 else size for axis, size in sizes.items()}
    assert math.prod(ways.values()) == count, (name, topology)
    assert config.train.rows % (ways['data'] * ways['fsdp'] * config.train.accumulate) == 0, (
        name, topology)
  mixes = {(name, topology) for name, topology, _ in planned if name.endswith('_mix')}
  assert mixes == {(f'iomm/{model}_mix', topology) for model in ('openuni_l', 'qwen_image')
                   for topology in ('tpu:v5p:4x4x4', 'gpu:h800:8x8')}
