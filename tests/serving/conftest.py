"""What tests of the server share: a run to be served, and the load of ``tools/bench_serve.py``."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.systems.registry import make_system

TOOLS = pathlib.Path(__file__).parents[2] / 'tools'


@pytest.fixture(scope='module')
def bench():
  """The tool's module."""
  sys.path.insert(0, str(TOOLS))
  try:
    yield importlib.import_module('bench_serve')
  finally:
    sys.path.remove(str(TOOLS))


@pytest.fixture
def workdir(tiny_config, tmp_path) -> str:
  """Of a tiny IOMM with random weights, as if it had been trained on 64 devices."""
  tiny_config.mesh.update(data=1, fsdp=64)
  tiny_config.sampling.update(steps=2, guidance=1.0, rows=1)
  rng = np.random.default_rng(0)
  save_weights(str(tmp_path / 'run'), trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0, 0.1, leaf.shape)),
      make_system(tiny_config).shapes()), to_json(tiny_config))
  return str(tmp_path / 'run')
