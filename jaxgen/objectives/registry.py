"""Builds the objectives that a config gives a weight."""

from typing import Any

from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.models.layers.quantized import require_qwix
from jaxgen.objectives.base import Objective
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.next_token import NextToken

Objectives = dict[str, tuple[Objective, float]]


def make_objectives(config: ConfigDict) -> Objectives:
  """Builds ``{name: (objective, weight)}`` of the terms with a weight above 0.

  Raises:
    UserError: all weights are 0, or fp8 matmuls are requested and qwix is not installed.
  """
  section = config.objective
  terms: Objectives = {}
  if config.model.fp8:
    require_qwix('config.model.fp8', True)
  if section.flow_matching > 0:
    terms['flow_matching'] = (FlowMatching(
        density=section.timesteps, mean=section.timestep_mean, std=section.timestep_std,
        shift=section.timestep_shift, sources=tuple(sorted(config.data.sources)),
        cosmos_mean=section.cosmos_mean, fp8=config.model.fp8), section.flow_matching)
  if section.next_token > 0:
    terms['next_token'] = (NextToken(), section.next_token)
  if not terms:
    raise user_error('config.objective', section.to_dict(), 'give one term a weight above 0')
  return terms


def needed_groups(system: Any, objectives: Objectives) -> tuple[str, ...]:
  """Parameter groups that the terms read, sorted; includes the groups that encode images.

  Raises:
    UserError: a term that the system has not what it takes to compute.
  """
  for name, (objective, weight) in objectives.items():
    if not set(objective.calls) <= set(system.reads):
      raise user_error(f'config.objective.{name}', weight, f'{type(system).__name__} has no such '
                       'objective; set it to 0')
  calls = {call for objective, _ in objectives.values() for call in objective.calls}
  if 'denoise' in calls:
    calls.add('encode')
  return tuple(sorted({group for call in calls for group in system.reads[call]}))
