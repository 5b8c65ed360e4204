"""transformers' ``Qwen3Model``; checked against it in tests/models/test_text_towers.py."""

from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.tables.causal_lm import tower

FAMILY = tower('qwen3', 'Qwen3Model', Implied('rope_scaling.factor', 1.0),
               Fixed('rope_parameters.rope_type', 'default'), qk_norm=True)
