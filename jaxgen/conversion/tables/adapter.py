"""The residual query adapter as plain PyTorch tensors; no published class exists.

The names are what a PyTorch module of the same structure would give: ``nn.Linear`` weights are
(out, in), heads are flattened into the model dimension.
"""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import LINEAR


def _linear(ours: str, theirs: str, kernel=LINEAR, bias=()) -> tuple[Rule, ...]:
  return (Rule(f'{ours}/kernel', f'{theirs}.weight', kernel),
          Rule(f'{ours}/bias', f'{theirs}.bias', bias))


def _norm(name: str) -> tuple[Rule, ...]:
  return Rule(f'{name}/scale', f'{name}.weight'), Rule(f'{name}/bias', f'{name}.bias')


RULES = (
    Rule('queries', 'queries'),
    *_norm('query_norm'),
    *_norm('state_norm'),
    *_norm('mlp_norm'),
    *_linear('q', 'attention.q', HEADS_OUT, HEADS_BIAS),
    *_linear('k', 'attention.k', HEADS_OUT, HEADS_BIAS),
    *_linear('v', 'attention.v', HEADS_OUT, HEADS_BIAS),
    *_linear('attention_out', 'attention.out', HEADS_IN),
    *_linear('mlp/up', 'mlp.up'),
    *_linear('mlp/down', 'mlp.down'),
)


FAMILY = Family(
    name='residual_queries',
    marker=('_class_name', 'ResidualQueries'),
    stem='model',
    rules=RULES,
    fields=(
        Field('width', 'width'),
        Field('queries', 'queries'),
        Field('heads', 'heads'),
        Field('mlp_ratio', 'mlp_ratio'),
    ),
)
