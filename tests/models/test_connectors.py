"""Connectors against torch; learnable queries, and their places in the prompt."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.tables import connectors as tables
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.bridges.connectors import joined_layers
from jaxgen.models.bridges.queries import place_queries
from tests.models import parity

TINY = {
    'mlp_connector': dict(width=12, hidden=20, out_width=8),
    'encoder_connector': dict(width=16, layers=3, heads=2, mlp=24, out_width=8),
    'layers_connector': dict(width=12, layers=3, out_width=8),
    'learnable_queries': dict(width=12, queries=5),
}
FAMILIES = {family.name: family for family in tables.FAMILIES}


def build(family):
  """``(module, random params)``."""
  module = registry.build(registry.section(family, **TINY[family]), jnp.float32)
  rng = np.random.default_rng(0)
  params = trees.map_named(lambda _, leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
                           registry.param_shapes(module))
  return module, params


def load(model, family, params):
  """Gives a torch module our weights; every one must have its place."""
  return parity.load(model, FAMILIES[family].rules, params)


def assert_equal_torch(module, params, model, states):
  ours = module.apply({'params': params}, states, np.ones(states.shape[-3:-1], np.int32))
  parity.assert_near(ours, parity.theirs(model, lambda model, states: model(states), states))


def example(*shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_mlp_connector_equals_torch():
  module, params = build('mlp_connector')
  theirs = load(torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.GELU(),
                                    torch.nn.Linear(20, 8)), 'mlp_connector', params)
  assert_equal_torch(module, params, theirs, example(2, 5, 12))


class OpenUniConnector(torch.nn.Module):
  """Six-layer connectors are SigLIP encoders with a linear behind them."""

  def __init__(self):
    super().__init__()
    self.connector = SiglipEncoder(SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2))
    self.projector = torch.nn.Linear(16, 8)

  def forward(self, states):
    return self.projector(self.connector(inputs_embeds=states).last_hidden_state)


def test_encoder_connector_equals_siglip_and_keeps_segments_apart():
  module, params = build('encoder_connector')
  theirs = load(OpenUniConnector(), 'encoder_connector', params)
  states, segments = example(1, 9, 16), np.array([[1] * 4 + [2] * 3 + [0] * 2], np.int32)
  ours = np.asarray(jax.jit(module.apply)({'params': params}, states, segments))
  for part in (slice(0, 4), slice(4, 7)):
    expected = parity.theirs(theirs, lambda model, states: model(states), states[:, part])
    parity.assert_near(ours[:, part], expected)
    assert np.abs(expected.exact).max() > 0.1
  assert np.isfinite(ours).all()


def test_layers_connector_equals_torch():
  module, params = build('layers_connector')
  theirs = torch.nn.ModuleDict({'crossattn_proj': torch.nn.Sequential(
      torch.nn.Linear(36, 8), torch.nn.GELU())})
  load(theirs, 'layers_connector', params)

  def run(model, states):
    normed = torch.cat([(layer - layer.mean(dim=-1, keepdim=True))
                        / (layer.std(dim=-1, keepdim=True) + 1e-8) for layer in states[1:]], dim=-1)
    return normed, model['crossattn_proj'](normed)

  states = example(4, 2, 5, 12)
  ours = module.apply({'params': params}, states, np.ones((2, 5), np.int32))
  parity.assert_near((joined_layers(states), ours), parity.theirs(theirs, run, states))


def test_queries_are_the_same_for_every_segment():
  module, params = build('learnable_queries')
  queries = module.apply({'params': params}, example(2, 3, 12), np.ones((2, 3), np.int32), 2)
  assert queries.shape == (2, 2, 5, 12)
  np.testing.assert_array_equal(queries, np.broadcast_to(params['queries'], queries.shape))


def test_queries_stand_where_query_index_says():
  embeddings, queries = example(2, 6, 3).astype(jnp.bfloat16), example(2, 2, 4, 3)
  segments = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]], np.int32)
  index = np.array([[-1, 0, 3, 2, -1, -1], [-1, -1, 0, 1, 2, 3]], np.int32)
  placed = np.asarray(place_queries(embeddings, queries, segments, index))
  assert placed.dtype == embeddings.dtype
  for row in range(2):
    for token in range(6):
      expected = embeddings[row, token] if index[row, token] < 0 else queries[
          row, segments[row, token] - 1, index[row, token]].astype(jnp.bfloat16)
      np.testing.assert_array_equal(placed[row, token], expected)


@pytest.mark.parametrize('family', TINY)
def test_round_trip_config_and_axes(family):
  module, params = build(family)
  table = FAMILIES[family]
  tensors = to_torch(table.rules, params)
  again = trees.flatten(from_torch(table.rules, tensors, params))
  for path, leaf in trees.flatten(params).items():
    assert again[path].tobytes() == leaf.tobytes(), path
  section = registry.section(family, **TINY[family])
  written = table.write_config(section)
  assert registry.section(**table.read_config(written, tensors, 'x')) == section
  boxed = jax.eval_shape(lambda rng: registry.init(module, rng), jax.random.key(0))['params']
  for path, leaf in trees.flatten(boxed).items():
    assert len(leaf.names) == len(leaf.value.shape) and all(leaf.names), path


@pytest.mark.parametrize('family, fields, count', [
    ('mlp_connector', {}, 5_901_760),
    ('layers_connector', {}, 28 * 3584 * 1024 + 1024),
    ('learnable_queries', dict(width=3584), 128 * 3584),
    # Six blocks of 4 d^2 + 2 d F weights with biases and norms, then 1536 -> 2304.
    ('encoder_connector', {}, 6 * (4 * (1536**2 + 1536) + 2 * 1536 * 8960 + 8960 + 1536
                                   + 4 * 1536) + 1536 * 2304 + 2304),
])
def test_published_sizes(family, fields, count):
  module = registry.build(registry.section(family, **fields), jnp.float32)
  leaves = jax.tree.leaves(registry.param_shapes(module))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_sizes_that_do_not_fit_are_named():
  with pytest.raises(UserError, match='connector.heads = 5: must divide'):
    registry.section('encoder_connector', heads=5)
  with pytest.raises(UserError, match='bridge.queries = 0'):
    registry.section('learnable_queries', width=8, queries=0)
