"""Files of low-rank adapters: PEFT folders and the tensor names of other programs, both ways."""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxgen.conversion.folders import WEIGHT_ENDINGS
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.folders import open_weights
from jaxgen.conversion.folders import read_config
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.folders import write_file
from jaxgen.conversion.lora import Adapter
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_new
from jaxgen.core.files import writing
from jaxgen.core.mismatch import shorten

CONFIG, STEM = 'adapter_config.json', 'adapter_model'


@dataclasses.dataclass(frozen=True)
class Style:
  """How a program names the tensors of an adapter.

  Attributes:
    prefix: before the name of the module.
    down: suffix of the matrix (r, in).
    up: suffix of the matrix (out, r).
    alpha: suffix of the scalar; '' = a config file holds it.
    layout: whose names the modules have, in families that know it; '' = the class's own.
  """

  prefix: str
  down: str = 'lora_A.weight'
  up: str = 'lora_B.weight'
  alpha: str = ''
  layout: str = ''


PEFT = Style('base_model.model.', layout='modules')
DIFFUSERS = Style('transformer.', alpha='alpha')
COMFYUI = Style('diffusion_model.', 'lora_down.weight', 'lora_up.weight', 'alpha', 'original')
STYLES = {'peft': PEFT, 'diffusers': DIFFUSERS, 'comfyui': COMFYUI}


@dataclasses.dataclass(frozen=True)
class Found:
  """A file or folder of adapters.

  Attributes:
    adapters: by the names of their modules.
    style: of the program that wrote it.
    base: name of the base model; '' where the style has no place for it.
  """

  adapters: dict[str, Adapter]
  style: Style
  base: str = ''


def find(path: str) -> Found | None:
  """Reads adapters of any program, recognised by their tensor names; None for a model.

  Args:
    path: of a PEFT folder, of a file, or of a folder with one file.

  Raises:
    UserError: a damaged file, or tensors beside the adapters that are none.
  """
  root = epath.Path(path)
  if (root / CONFIG).exists():
    return Found(load_peft(path), PEFT, read_config(path, CONFIG).get('base_model_name_or_path')
                 or '')
  if root.is_dir() and ((root / 'config.json').exists() or not any(
      file.suffix in WEIGHT_ENDINGS for file in root.iterdir())):
    return None
  names = list(open_weights(path))
  fitting = {key: sum(name.startswith(style.prefix) and name.endswith((style.down, style.up))
                      for name in names) for key, style in STYLES.items()}
  key = max(fitting, key=fitting.get)
  return Found(load_file(path, STYLES[key]), STYLES[key]) if fitting[key] else None


def named(adapters: Mapping[str, Adapter], style: Style) -> dict[str, np.ndarray]:
  """The tensors of a file in this style, by name."""
  tensors = {}
  for module, adapter in adapters.items():
    tensors[f'{style.prefix}{module}.{style.down}'] = adapter.down
    tensors[f'{style.prefix}{module}.{style.up}'] = adapter.up
    if style.alpha:
      tensors[f'{style.prefix}{module}.{style.alpha}'] = np.float32(adapter.alpha)
  return tensors


def save(path: str, adapters: Mapping[str, Adapter], style: str, *, base: str = '') -> str:
  """Writes adapters in a program's format: a PEFT folder, or a file for the others.

  Args:
    path: ``target`` of the style.
    adapters: by the names of their modules.
    style: a key of ``STYLES``.
    base: name of the base model, where the style has a place for it.
  """
  if STYLES[style] is PEFT:
    save_peft(path, adapters, base=base)
  else:
    save_file(path, adapters, STYLES[style])


def target(path: str, style: str) -> str:
  """The folder or file that adapters of a style are written to, of a path without an ending."""
  return path if STYLES[style] is PEFT else f'{path}.safetensors'


def save_peft(folder: str, adapters: Mapping[str, Adapter], *, base: str = '') -> None:
  """Writes a folder that ``PeftModel.from_pretrained`` reads.

  Args:
    folder: must not exist, or be empty.
    adapters: by the names of the modules in memory; some families have a layout ``modules``
      with these.
    base: name of the base model, for the config.

  Raises:
    UserError: the folder holds something, or no adapter is given.
  """
  if not adapters:
    raise user_error(folder, None, 'there are no adapters to write')
  save_folder(folder, _peft_config(adapters, base), named(adapters, PEFT), stem=STEM,
              config_name=CONFIG)


def load_peft(folder: str) -> dict[str, Adapter]:
  """Reads a PEFT folder: adapters by the names of the modules in memory.

  Raises:
    UserError: another kind of adapter than plain LoRA, or tensors that are none of a LoRA.
  """
  config, tensors = load_folder(folder, CONFIG)
  for field, plain in (('peft_type', 'LORA'), ('use_dora', False), ('use_rslora', False),
                       ('fan_in_fan_out', False), ('bias', 'none')):
    if config.get(field, plain) != plain:
      raise user_error(f'{folder}/{CONFIG}: {field}', config[field],
                       f'this program reads {plain!r} only')
  halves = collections.defaultdict(dict)
  unknown = []
  for name, tensor in tensors.items():
    match = re.fullmatch(rf'{re.escape(PEFT.prefix)}(.*)\.lora_([AB])\.weight', name)
    if match:
      halves[match[1]][match[2]] = np.asarray(tensor)
    else:
      unknown.append(name)
  unknown += [module for module, half in halves.items() if len(half) != 2]
  if unknown:
    raise user_error(folder, None, f'{len(unknown)} tensors that are no LoRA, or half of one: '
                     f'{shorten(sorted(unknown))}')
  return {module: Adapter(half['A'], half['B'], _alpha(config, module, half['A']))
          for module, half in halves.items()}


def save_file(file: str, adapters: Mapping[str, Adapter], style: Style) -> None:
  """Writes one safetensors file, for programs without adapter folders.

  Args:
    file: must not exist.
    adapters: by the names of the modules; ComfyUI knows those of the layout ``original`` of
      families that have one, where queries, keys and values are one module.
    style: of the program.

  Raises:
    UserError: the file exists, no adapter is given, or the disk is full.
  """
  check_new(file)
  if not adapters:
    raise user_error(file, None, 'there are no adapters to write; set config.model.lora')
  whole = epath.Path(file)
  partial = whole.parent / f'{whole.name}.partial'
  try:
    with writing(file):
      whole.parent.mkdir(parents=True, exist_ok=True)
      write_file(str(partial), named(adapters, style))
      partial.rename(whole)
  finally:
    partial.unlink(missing_ok=True)


def load_file(file: str, style: Style) -> dict[str, Adapter]:
  """Reads such a file; without alpha, an adapter's alpha is its rank.

  Raises:
    UserError: a damaged file, or tensors that are none of a LoRA of this style.
  """
  halves = collections.defaultdict(dict)
  suffixes = {style.down: 'down', style.up: 'up'} | ({style.alpha: 'alpha'} if style.alpha else {})
  unknown = []
  for name, tensor in open_weights(file).items():
    suffix = next((end for end in suffixes if name.endswith(f'.{end}')), None)
    if suffix is None or not name.startswith(style.prefix):
      unknown.append(name)
    else:
      module = name.removeprefix(style.prefix).removesuffix(f'.{suffix}')
      halves[module][suffixes[suffix]] = np.asarray(tensor)
  unknown += [module for module, parts in halves.items() if not {'down', 'up'} <= parts.keys()]
  if unknown:
    raise user_error(file, None, f'{len(unknown)} tensors that are no LoRA of this style, or half '
                     f'of one: {shorten(sorted(unknown))}')
  return {module: Adapter(parts['down'], parts['up'],
                          float(parts.get('alpha', len(parts['down']))))
          for module, parts in halves.items()}


def _peft_config(adapters: Mapping[str, Adapter], base: str) -> dict[str, Any]:
  """adapter_config.json: the most common rank and alpha, and the modules that differ."""
  rank, alpha = (collections.Counter(values).most_common(1)[0][0] for values in (
      [adapter.rank for adapter in adapters.values()],
      [adapter.alpha for adapter in adapters.values()]))

  def pattern(values, common):
    # Keys are regexes that match from the start or behind any dot.
    return {f'^{re.escape(module)}': value for module, value in values.items() if value != common}

  return {
      'peft_type': 'LORA', 'base_model_name_or_path': base, 'r': rank, 'lora_alpha': alpha,
      'rank_pattern': pattern({name: own.rank for name, own in adapters.items()}, rank),
      'alpha_pattern': pattern({name: own.alpha for name, own in adapters.items()}, alpha),
      'target_modules': sorted(adapters), 'lora_dropout': 0.0, 'bias': 'none',
      'fan_in_fan_out': False, 'init_lora_weights': True, 'inference_mode': True,
      'task_type': None,
  }


def _alpha(config: Mapping[str, Any], module: str, down: np.ndarray) -> float:
  for pattern, alpha in (config.get('alpha_pattern') or {}).items():
    if re.match(rf'(.*\.)?({pattern})$', module):
      return float(alpha)
  return float(config.get('lora_alpha', len(down)))
