"""The systems by name; a further one adds its line here."""

import dataclasses

from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Layout
from jaxgen.data.dialects import DIALECTS
from jaxgen.data.positions import SCHEMES
from jaxgen.models.layers import lora
from jaxgen.systems.base import System
from jaxgen.systems.duetgen import DuetGen
from jaxgen.systems.flux import Flux
from jaxgen.systems.imontage import IMontage
from jaxgen.systems.iomm import IOMM
from jaxgen.systems.openuni import OpenUni
from jaxgen.systems.query_kontext import QueryKontext
from jaxgen.systems.qwen_image import QwenImage
from jaxgen.systems.z_image import ZImage

SYSTEMS = {
    'duetgen': DuetGen,
    'flux': Flux,
    'imontage': IMontage,
    'iomm': IOMM,
    'openuni': OpenUni,
    'query_kontext': QueryKontext,
    'qwen_image': QwenImage,
    'z_image': ZImage,
}


def system_class(config: ConfigDict) -> type[System]:
  """The class that ``config.system`` names.

  Raises:
    UserError: an unknown system.
  """
  if config.system not in SYSTEMS:
    raise user_error('config.system', config.system, f'must be one of {sorted(SYSTEMS)}')
  return SYSTEMS[config.system]


def make_system(config: ConfigDict) -> System:
  """Builds the system that ``config.system`` names, with the adapters of ``config.model.lora``.

  Raises:
    UserError: an unknown system, dialect or position scheme, model sizes that do not fit each
      other, or adapters of modules that it lacks.
  """
  system = system_class(config).from_config(config)
  _check_layout(system.layout)
  adapters = tuple(lora.LoRA(**entry) for entry in config.model.lora.values())
  if adapters:
    lora.check_used(system.axes(), adapters)
  return dataclasses.replace(system, adapters=adapters)


def with_preset(config: ConfigDict, name: str) -> ConfigDict:
  """The config, changed to draw as one of its system's presets does.

  Args:
    config: of a run.
    name: of the preset; '' changes nothing.

  Raises:
    UserError: the system has no such preset; says which it has.
  """
  if not name:
    return config
  presets = system_class(config).presets
  if name not in presets:
    raise user_error('--preset', name, f'use one of {", ".join(sorted(presets))}' if presets else
                     f'the system {config.system} has none; leave it out')
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(presets[name])
  return changed


def _check_layout(layout: Layout) -> None:
  """Refuses names that the data pipeline does not know; systems of text towers have no dialect."""
  for field, name, known in (('dialect', layout.dialect, ('', *DIALECTS)),
                             ('scheme', layout.scheme, tuple(SCHEMES))):
    if name not in known:
      raise user_error(f'config.data.{field}', name, f'use one of {", ".join(filter(None, known))}')
