"""Learnable queries and connectors, with the names that their PyTorch modules give them.

No class of a library holds them: the queries and OpenUni's connector have OpenUni's names, and
DuetGen's that of ``crossattn_proj`` in Cosmos, from which it starts (A21).
"""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.tables.clip_text import encoder_rules
from jaxgen.conversion.tables.pieces import linear


def _family(name: str, kind: str, rules: Rules, *fields: str) -> Family:
  return Family(name=name, marker=('_class_name', kind), stem='model', rules=rules,
                fields=tuple(Field(field, field) for field in fields))


QUERIES = _family('learnable_queries', 'LearnableQueries', (Rule('queries', 'meta_queries'),),
                  'width', 'queries')
MLP = _family('mlp_connector', 'MLPConnector', (*linear('up', '0'), *linear('down', '2')),
              'width', 'hidden', 'out_width')
ENCODER = _family(
    'encoder_connector', 'EncoderConnector',
    (*encoder_rules('layers', 'connector.layers.{i}'), *linear('projector', 'projector')),
    'width', 'layers', 'heads', 'mlp', 'out_width')
LAYERS = _family('layers_connector', 'LayersConnector', linear('projector', 'crossattn_proj.0'),
                 'width', 'layers', 'out_width')

FAMILIES = (QUERIES, MLP, ENCODER, LAYERS)
