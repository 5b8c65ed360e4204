"""Groups of rules and config fields that tables are made of; a rule whose parameter a model lacks
is idle."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Field
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import SAME
from jaxgen.conversion.transforms import Squeeze
from jaxgen.conversion.transforms import Transform
from jaxgen.core.errors import user_error

Transforms = tuple[Transform, ...]
PIXEL: Transforms = (Squeeze((2, 3)), *LINEAR)  # a convolution one pixel wide


def linear(ours: str, theirs: str, kernel: Transforms = LINEAR, bias: Transforms = SAME
           ) -> tuple[Rule, ...]:
  """A ``Linear`` of ours and their module with ``weight`` and perhaps ``bias``."""
  return (Rule(f'{ours}/kernel', f'{theirs}.weight', kernel),
          Rule(f'{ours}/bias', f'{theirs}.bias', bias))


def norm(ours: str, theirs: str) -> tuple[Rule, ...]:
  """A layer norm."""
  return Rule(f'{ours}/scale', f'{theirs}.weight'), Rule(f'{ours}/bias', f'{theirs}.bias')


def heads(ours: str, theirs: str) -> tuple[Rule, ...]:
  """A ``Linear`` from tokens to heads."""
  return linear(ours, theirs, HEADS_OUT, HEADS_BIAS)


def attention(ours: str, theirs: str, q: str = 'to_q', k: str = 'to_k', v: str = 'to_v',
              q_norm: str = 'norm_q', k_norm: str = 'norm_k', out: str = 'to_out.0'
              ) -> tuple[Rule, ...]:
  """A ``QKV`` named ``ours`` and the projection ``ours_out``; names as in diffusers."""
  return (*heads(f'{ours}/q', f'{theirs}.{q}'), *heads(f'{ours}/k', f'{theirs}.{k}'),
          *heads(f'{ours}/v', f'{theirs}.{v}'),
          Rule(f'{ours}/q_norm/scale', f'{theirs}.{q_norm}.weight'),
          Rule(f'{ours}/k_norm/scale', f'{theirs}.{k_norm}.weight'),
          *linear(f'{ours}_out', f'{theirs}.{out}', HEADS_IN))


def prefixed(rules: Rules, *prefixes: tuple[str, str]) -> Rules:
  """The same rules where their names begin otherwise: of ``(old, new)`` the first that fits."""
  def renamed(name):
    old, new = next((pair for pair in prefixes if name.startswith(pair[0])), ('', ''))
    return new + name.removeprefix(old)

  return tuple(dataclasses.replace(rule, theirs=renamed(rule.theirs)) for rule in rules)


def vision_fields(ours: str, theirs: str) -> tuple[Field, ...]:
  """Config fields that the vision transformers of CLIP, SigLIP, SigLIP 2 and DINO name alike.

  Args:
    ours: prefix of our section, with its dot.
    theirs: prefix of their section, likewise.
  """
  return (
      Field(f'{ours}patch_size', f'{theirs}patch_size', read=square_side),
      Field(f'{ours}width', f'{theirs}hidden_size'),
      Field(f'{ours}layers', f'{theirs}num_hidden_layers'),
      Field(f'{ours}heads', f'{theirs}num_attention_heads'),
      Field(f'{ours}activation', f'{theirs}hidden_act'),
      Field(f'{ours}norm_eps', f'{theirs}layer_norm_eps'),
  )


def square_side(value: int | list[int], theirs: Mapping[str, Any]) -> int:
  """Side of a square image or patch, which configs give as a number or as height and width.

  Raises:
    UserError: it is no square.
  """
  del theirs
  if isinstance(value, int):
    return value
  if value[0] != value[1]:
    raise user_error('config.json: image_size or patch_size', value,
                     'this model supports squares only')
  return value[0]
