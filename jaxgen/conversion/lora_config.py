"""What a file of adapters says of them beside its tensors: PEFT's config, and how strong they are.

PEFT writes ``adapter_config.json``; diffusers puts the same fields into the header of its
safetensors file, each with the name of its model before it.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.core.errors import user_error

METADATA = 'lora_adapter_metadata'
# Fields that make no difference to what an adapter adds, whatever they say: how it was trained,
# and what is read elsewhere. Any other field must be off.
_HARMLESS = frozenset({
    'alpha_pattern', 'auto_mapping', 'base_model_name_or_path', 'corda_config', 'eva_config',
    'exclude_modules', 'inference_mode', 'layers_pattern', 'layers_to_transform', 'loftq_config',
    'lora_alpha', 'lora_dropout', 'lora_ga_config', 'megatron_core', 'peft_version',
    'qalora_group_size', 'r', 'rank_pattern', 'revision', 'runtime_config', 'target_modules',
    'task_type', 'use_rslora'})
# Values that a field may have besides being off. Other ways to initialise adapters (pissa, olora,
# corda, loftq, lora_ga) change the kernel that they stand beside.
_PLAIN = {'peft_type': ('LORA',), 'bias': ('none',),
          'init_lora_weights': (True, 'gaussian', 'eva', 'orthogonal')}
_DEFAULT_ALPHA = 8  # of PEFT


def check(config: Mapping[str, Any], where: str) -> None:
  """Refuses every kind of adapter but plain LoRA.

  Args:
    config: fields of PEFT's LoraConfig.
    where: file named in errors.

  Raises:
    UserError: a field that is not known to make no difference.
  """
  for field, value in config.items():
    if field not in _HARMLESS and value and value not in _PLAIN.get(field, ()):
      raise user_error(f'{where}: {field}', value, 'is not supported, which reads plain LoRA only; '
                       'merge the adapters with peft')
  alphas = [config.get('lora_alpha'), *(config.get('alpha_pattern') or {}).values()]
  for alpha in alphas:
    if alpha is not None and not (isinstance(alpha, (int, float)) and math.isfinite(alpha)):
      raise user_error(f'{where}: lora_alpha', alpha, 'must be a number')


def alpha_of(config: Mapping[str, Any], module: str, rank: int) -> float:
  """Alpha of one module, as PEFT looks it up: ``alpha / rank`` is its strength.

  Args:
    config: one that ``check`` has passed.
    module: by the name in the model that the adapters were trained on.
    rank: of the adapter.
  """
  alpha = config.get('lora_alpha', _DEFAULT_ALPHA)
  for pattern, value in (config.get('alpha_pattern') or {}).items():
    if re.match(rf'(.*\.)?({pattern})$', module):
      alpha = value
      break
  return float(alpha) * (math.sqrt(rank) if config.get('use_rslora') else 1.0)


def from_metadata(metadata: Mapping[str, str], where: str) -> dict[str, dict[str, Any]]:
  """The configs in the header of a safetensors file.

  Returns:
    ``{prefix of the names: config}``; empty where the file has none.

  Raises:
    UserError: broken JSON, or as ``check``.
  """
  if METADATA not in metadata:
    return {}
  try:
    fields = dict(json.loads(metadata[METADATA]))
  except (TypeError, ValueError) as error:
    raise user_error(f'{where}: {METADATA}', None, f'is no JSON object ({error}); save the file '
                     'again') from error
  configs: dict[str, dict[str, Any]] = {}
  for name, value in fields.items():
    prefix, _, field = name.rpartition('.')
    configs.setdefault(f'{prefix}.' if prefix else '', {})[field] = value
  for config in configs.values():
    check(config, where)
  return configs


def alpha_in(tensor: np.ndarray, where: str) -> float:
  """The number in a tensor of alpha, whose shape is () or (1,).

  Raises:
    UserError: not one finite number.
  """
  values = np.asarray(tensor, np.float64).reshape(-1)
  if len(values) != 1 or not np.isfinite(values[0]):
    raise user_error(where, values.tolist(), 'alpha must be one finite number')
  return float(values[0])
