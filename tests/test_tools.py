"""The benchmarks' own code: every model still takes what they hand it."""

import argparse
import importlib
import pathlib

import jax
import pytest
import torch

TOOLS = pathlib.Path(__file__).parent.parent / 'tools'
SMALL = argparse.Namespace(width=128, layers=2, side=8, text=32, steps=1, unroll=1)


@pytest.fixture
def bench_models(monkeypatch):
  monkeypatch.syspath_prepend(str(TOOLS))
  return importlib.import_module('bench_models')


def test_models_give_outputs_of_their_classes_shapes(bench_models):
  for name, make in bench_models.MODELS.items():
    pair = make(SMALL)
    ours = jax.eval_shape(pair.forward, pair.params, pair.inputs)
    with torch.no_grad():
      assert ours.size == pair.call(pair.model).numel(), name


def test_flops_of_a_grouped_convolution(bench_models):
  """The output takes 2 products a tap of its own group, each of the two gradients as many."""
  convolution = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4)
  images = torch.zeros(1, 8, 5, 5, requires_grad=True)
  assert bench_models.count_flops(lambda: convolution(images).sum().backward()) == 3 * (
      2 * (8 * 5 * 5) * (2 * 3 * 3))
