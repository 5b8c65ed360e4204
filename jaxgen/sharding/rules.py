"""THE table from logical axis names to mesh axes; nothing else in the project places an array.

Models name what a dimension means, this table says how it is spread. The order is the order of
precedence: a mesh axis serves one dimension of an array only, and the first rule takes it. A run
may have rules of its own in their places (``config.mesh.rules``).
"""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxgen.core.errors import user_error


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one logical axis is spread.

  Attributes:
    axes: mesh axes that split the dimension together; empty keeps it whole.
    may_replicate: whether a parameter's dimension that the mesh axes do not divide stays whole.
      True where the cost is a little memory; False where it would silently undo the
      parallelism that the user asked for.
  """

  axes: tuple[str, ...] = ()
  may_replicate: bool = False


Rules = Mapping[str, Rule]

RULES: Rules = {
    # Activations.
    'rows': Rule(('data', 'fsdp')),
    'tokens': Rule(('context',), may_replicate=True),
    'keys': Rule(),  # of attention: gathered; split as tokens are, they go round the devices
    'act_embed': Rule(),
    # Parameters: tensor parallelism splits heads and hidden units, fsdp the model dimension.
    'heads': Rule(('tensor',)),
    'kv_heads': Rule(('tensor',), may_replicate=True),  # fewer than the ways: each way has them all
    'mlp': Rule(('tensor',)),
    'vocab': Rule(('tensor',), may_replicate=True),  # published vocabularies are seldom divisible
    'embed': Rule(('fsdp',), may_replicate=True),
    'layers': Rule(),
    'head_dim': Rule(),
    'latent': Rule(),
    'cond': Rule(('fsdp',), may_replicate=True),  # where no model dimension is split so
    'patch': Rule(),
    'queries': Rule(),
    'positions': Rule(),
    'lora': Rule(),
    'conv_in': Rule(),
    'conv_out': Rule(),
    'norm': Rule(),
    'rank': Rule(),
    'chunks': Rule(),
}


def with_changes(changes: Sequence[tuple[str, tuple[str, ...], bool]]) -> Rules:
  """The table with some rules replaced.

  Args:
    changes: (logical axis, mesh axes, may_replicate) each; ``config.mesh.rules``.

  Raises:
    UserError: an axis without a rule here, or one that cannot be spread so.
  """
  table = dict(RULES)
  for name, axes, may_replicate in changes:
    if name not in RULES:
      raise user_error('config.mesh.rules', name, f'no such logical axis; known: {sorted(RULES)}')
    table[name] = Rule(tuple(axes), may_replicate)
  if table['rows'] != RULES['rows']:
    raise user_error('config.mesh.rules', 'rows', 'the loader feeds rows over data and fsdp; '
                     'change the sizes of mesh.data and mesh.fsdp in its place')
  if table['keys'].axes not in ((), table['tokens'].axes):
    raise user_error('config.mesh.rules', 'keys', 'keys are gathered, (), or split as tokens are, '
                     f'{table["tokens"].axes}')
  return table


def rule(name: str, table: Rules = RULES) -> Rule:
  """The rule of a logical axis; an unknown name is an error, never a replicated array."""
  if name not in table:
    raise user_error('logical axis', name,
                     f'add it to jaxgen/sharding/rules.py; known: {sorted(table)}')
  return table[name]


def flax_rules(table: Rules = RULES) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
  """The same table as Flax's ``logical_axis_rules`` reads it, for activations inside modules."""
  return tuple((name, entry.axes or None) for name, entry in table.items())
