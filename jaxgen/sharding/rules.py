"""The one table from logical axis names to mesh axes; every array is sharded through it.

Models name the meaning of each dimension, and this table maps it to mesh axes. Rules are in order
of precedence: a mesh axis can shard only one dimension of an array, and the first rule takes it.
A run may replace rules (``config.mesh.rules``).
"""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxgen.core.errors import user_error


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one logical axis is sharded.

  Attributes:
    axes: mesh axes that shard the dimension jointly; empty keeps it whole.
    may_replicate: whether a parameter's dimension that the mesh axes do not divide may stay
      whole. True where that costs little memory; False where it would silently disable the
      parallelism that the user asked for.
  """

  axes: tuple[str, ...] = ()
  may_replicate: bool = False


Rules = Mapping[str, Rule]

RULES: Rules = {
    # Activations.
    'rows': Rule(('data', 'fsdp')),
    'tokens': Rule(('context',), may_replicate=True),
    'keys': Rule(),  # attention keys: gathered; sharded like tokens = ring attention
    'act_embed': Rule(),
    # Parameters: tensor parallelism shards heads and hidden units, fsdp the model dimension.
    'heads': Rule(('tensor',)),
    'kv_heads': Rule(('tensor',), may_replicate=True),  # replicated if fewer than the tensor axis
    'mlp': Rule(('tensor',)),
    'vocab': Rule(('tensor',), may_replicate=True),  # published vocabularies rarely divide
    'embed': Rule(('fsdp',), may_replicate=True),
    'rank': Rule(('fsdp',), may_replicate=True),  # likewise
    'layers': Rule(),
    'head_dim': Rule(),
    'latent': Rule(),
    'cond': Rule(('fsdp',), may_replicate=True),  # unless the model dimension already took fsdp
    'patch': Rule(),
    'queries': Rule(),
    'positions': Rule(),
    'lora': Rule(),
    'conv_in': Rule(),
    'conv_out': Rule(),
    'norm': Rule(),
    'chunks': Rule(),
}


def with_changes(changes: Sequence[tuple[str, tuple[str, ...], bool]]) -> Rules:
  """The table with some rules replaced.

  Args:
    changes: ``(logical axis, mesh axes, may_replicate)`` tuples, from ``config.mesh.rules``.

  Raises:
    UserError: an unknown logical axis, or a sharding that this axis does not support.
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
  """The rule of a logical axis; an unknown name is an error and never means replication."""
  if name not in table:
    raise user_error('logical axis', name,
                     f'add it to jaxgen/sharding/rules.py; known: {sorted(table)}')
  return table[name]


def flax_rules(table: Rules = RULES) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
  """The table in the format of Flax's ``logical_axis_rules``, for activations inside modules."""
  return tuple((name, entry.axes or None) for name, entry in table.items())
