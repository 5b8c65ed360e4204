"""transformers' ``LlamaModel``; checked against it in tests/models/test_text_towers.py."""

from collections.abc import Mapping
from typing import Any

from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Supported
from jaxgen.conversion.tables.causal_lm import tower

TYPES = ('default', 'llama3')  # of rope


def _scaling(field: str, theirs: str, default: float) -> Field:
  """A field of the rope of Llama 3.1, which other ropes may hold too and do not read."""
  def read(value: float, config: Mapping[str, Any]) -> float:
    return value if config['rope_parameters']['rope_type'] == 'llama3' else default

  return Field(f'rope_scaling.{field}', f'rope_parameters.{theirs}', read=read, default=default)


FAMILY = tower(
    'llama', 'LlamaModel',
    Supported('rope_parameters.rope_type', TYPES.__contains__, ' and '.join(map(repr, TYPES))),
    Field('rope_scaling.factor', 'rope_parameters.rope_type', read=None,
          write=lambda factor, _: 'default' if factor == 1 else 'llama3'),
    _scaling('factor', 'factor', 1.0),
    _scaling('low', 'low_freq_factor', 1.0),
    _scaling('high', 'high_freq_factor', 4.0),
    _scaling('original', 'original_max_position_embeddings', 8192),
    Fixed('mlp_bias', False), qk_norm=False)
