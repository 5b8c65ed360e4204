"""The systems by name; a fifth one adds its line here."""

import dataclasses

from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.models.layers import lora
from jaxgen.systems.base import System
from jaxgen.systems.imontage import IMontage
from jaxgen.systems.iomm import IOMM
from jaxgen.systems.query_kontext import QueryKontext

SYSTEMS = {'imontage': IMontage, 'iomm': IOMM, 'query_kontext': QueryKontext}


def make_system(config: ConfigDict) -> System:
  """Builds the system that ``config.system`` names, with the adapters of ``config.model.lora``.

  Raises:
    UserError: an unknown system, model sizes that do not fit each other, or adapters of modules
      that it lacks.
  """
  if config.system not in SYSTEMS:
    raise user_error('config.system', config.system, f'must be one of {sorted(SYSTEMS)}')
  system = SYSTEMS[config.system].from_config(config)
  adapters = tuple(lora.LoRA(**entry) for entry in config.model.lora.values())
  if adapters:
    lora.check_used(system.axes(), adapters)
  return dataclasses.replace(system, adapters=adapters)
