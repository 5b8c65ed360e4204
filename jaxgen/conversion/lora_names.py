"""Names in files of low-rank adapters, in which prefix and suffix vary independently."""

import os
import re
from collections.abc import Collection

# What programs write behind the name of a module; PEFT may put the name of the adapter in between.
_SUFFIX = re.compile(
    r'(?P<module>.+)\.(?:(?P<half>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)'
    r'(?:\.[\w-]+)?\.weight|(?P<alpha>alpha))')
_HALVES = {'lora_A': 'down', 'lora_down': 'down', 'lora.down': 'down',
           'lora_B': 'up', 'lora_up': 'up', 'lora.up': 'up'}
# What they write before it: names with dots, and names in which every dot is an underscore.
_PREFIXES = ('', 'transformer.', 'diffusion_model.', 'base_model.model.', 'model.diffusion_model.',
             'model.', 'unet.', 'text_encoder.', 'text_encoder_2.',
             'transformer.base_model.model.', 'base_model.model.transformer.',
             'base_model.model.diffusion_model.')
_FLAT_PREFIXES = ('lora_unet_', 'lora_transformer_', 'lora_te_', 'lora_te1_', 'lora_te2_',
                  'lycoris_')
_SIGNS = re.compile(r'(^|[._])(lora|lokr|loha|hada|lycoris|oft|boft|ia3|dora)(_|\.|\d)',
                    re.IGNORECASE)


def parse(name: str) -> tuple[str, str] | None:
  """The module of a tensor and what it is of an adapter: ``down``, ``up`` or ``alpha``."""
  match = _SUFFIX.fullmatch(name)
  return match and (match['module'], _HALVES.get(match['half'], 'alpha'))


def are_adapters(names: Collection[str]) -> bool:
  """Whether a file is one of adapters, in whatever naming."""
  return 2 * sum(bool(_SIGNS.search(name)) for name in names) > len(names)


def resolve(names: Collection[str], modules: Collection[str]) -> dict[str, str]:
  """The modules that names of a file stand for.

  Args:
    names: of modules, as the file has them.
    modules: those of the model.

  Returns:
    ``{name of the file: module}`` for the prefix under which the most are found; names that it
    does not explain are absent.
  """
  # ComfyUI leaves out what all names begin with, such as the ``net.`` of Cosmos.
  shared = os.path.commonprefix(list(modules)).rpartition('.')[0] + '.'
  dotted = {module.removeprefix(shared): module for module in modules}
  dotted |= {module: module for module in modules}
  flat = {name.replace('.', '_'): module for name, module in dotted.items()}
  found: dict[str, str] = {}
  for prefixes, table in ((_PREFIXES, dotted), (_FLAT_PREFIXES, flat)):
    for prefix in prefixes:
      own = {name: table[name.removeprefix(prefix)] for name in names
             if name.startswith(prefix) and name.removeprefix(prefix) in table}
      found = max(found, own, key=len)
  return found
