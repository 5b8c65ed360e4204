"""Learnable queries and connectors, with the names that their PyTorch modules give them.

No class of a library holds them: the queries and OpenUni's connector have OpenUni's names, and
DuetGen's that of ``crossattn_proj`` in Cosmos, from which it starts (A21).
"""

from collections.abc import Callable, Mapping

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.tables.clip_text import encoder_rules
from jaxgen.conversion.tables.pieces import linear


Shape = tuple[int, ...]
Measure = Callable[[Mapping[str, Shape]], dict[str, int] | None]
HEAD_DIM = 64  # of OpenUni's connectors, which no tensor shows


def _family(name: str, kind: str, rules: Rules, *fields: str, measure: Measure | None = None
            ) -> Family:
  return Family(name=name, marker=('_class_name', kind), stem='model', rules=rules,
                fields=tuple(Field(field, field) for field in fields), measure=measure)


def _measure_queries(shapes: Mapping[str, Shape]) -> dict[str, int] | None:
  queries, width = shapes.get('meta_queries', (0, 0))
  return dict(width=width, queries=queries) if queries else None


def _measure_encoder(shapes: Mapping[str, Shape]) -> dict[str, int] | None:
  up, out = shapes.get('connector.layers.0.mlp.fc1.weight'), shapes.get('projector.weight')
  if not (up and out) or up[1] % HEAD_DIM:
    return None
  layers = sum(name.endswith('.mlp.fc1.weight') for name in shapes)
  return dict(width=up[1], layers=layers, heads=up[1] // HEAD_DIM, mlp=up[0], out_width=out[0])


QUERIES = _family('learnable_queries', 'LearnableQueries', (Rule('queries', 'meta_queries'),),
                  'width', 'queries', measure=_measure_queries)
MLP = _family('mlp_connector', 'MLPConnector', (*linear('up', '0'), *linear('down', '2')),
              'width', 'hidden', 'out_width')
ENCODER = _family(
    'encoder_connector', 'EncoderConnector',
    (*encoder_rules('layers', 'connector.layers.{i}'), *linear('projector', 'projector')),
    'width', 'layers', 'heads', 'mlp', 'out_width', measure=_measure_encoder)
LAYERS = _family('layers_connector', 'LayersConnector', linear('projector', 'crossattn_proj.0'),
                 'width', 'layers', 'out_width')

FAMILIES = (QUERIES, MLP, ENCODER, LAYERS)
