"""The systems by name; a fifth one adds its line here."""

from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.systems.base import System
from jaxgen.systems.iomm import IOMM

SYSTEMS = {'iomm': IOMM}


def make_system(config: ConfigDict) -> System:
  """Builds the system that ``config.system`` names.

  Raises:
    UserError: an unknown system, or model sizes that do not fit each other.
  """
  if config.system not in SYSTEMS:
    raise user_error('config.system', config.system, f'must be one of {sorted(SYSTEMS)}')
  return SYSTEMS[config.system].from_config(config)
