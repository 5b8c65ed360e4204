"""transformers' ``LlamaModel``; checked against it in tests/models/test_text_towers.py."""

from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.tables.causal_lm import tower
from jaxgen.core.errors import user_error


def _scaling(field: str, theirs: str, default: float) -> Field:
  return Field(f'rope_scaling.{field}', (f'rope_parameters.{theirs}', f'rope_scaling.{theirs}'),
               default=default)


def _read_type(kind: str, _) -> float:
  if kind not in ('default', 'llama3'):
    raise user_error('config.json: rope_type', kind, "this model supports 'default' and 'llama3'")
  return 1.0


FAMILY = tower(
    'llama', 'LlamaModel',
    Field('rope_scaling.factor', ('rope_parameters.rope_type', 'rope_scaling.rope_type'),
          read=_read_type, default=1.0,
          write=lambda factor, _: 'default' if factor == 1 else 'llama3'),
    _scaling('factor', 'factor', 1.0),
    _scaling('low', 'low_freq_factor', 1.0),
    _scaling('high', 'high_freq_factor', 4.0),
    _scaling('original', 'original_max_position_embeddings', 8192),
    Fixed('mlp_bias', False), qk_norm=False)
