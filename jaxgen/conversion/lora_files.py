"""Files of low-rank adapters: PEFT folders and the tensor names of other programs, both ways."""

import collections
import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxgen.conversion import lora_config
from jaxgen.conversion import lora_names
from jaxgen.conversion.folders import open_weights
from jaxgen.conversion.folders import read_config
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.folders import write_file
from jaxgen.conversion.lora import Adapter
from jaxgen.conversion.stored import StoredTensor
from jaxgen.conversion.weight_files import ENDINGS
from jaxgen.conversion.weight_files import split_choice
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_new
from jaxgen.core.files import writing
from jaxgen.core.mismatch import shorten

CONFIG, STEM = 'adapter_config.json', 'adapter_model'


@dataclasses.dataclass(frozen=True)
class Style:
  """How adapters are named for a program.

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
  """Adapters of a file or folder.

  Attributes:
    adapters: by the names that the file has for their modules.
    strength: where alpha was read, in words.
    base: name of the base model; '' where the file does not say it.
  """

  adapters: dict[str, Adapter]
  strength: str
  base: str = ''

  def of(self, modules: Collection[str]) -> dict[str, Adapter]:
    """By the names of a model's modules; what fits none keeps the name that the file has."""
    names = lora_names.resolve(self.adapters, modules)
    return {names.get(name, name): adapter for name, adapter in self.adapters.items()}


def find(path: str) -> Found | None:
  """Reads adapters of any program, recognised by their tensor names; None for a model.

  Args:
    path: of a PEFT folder, of a file, or of a folder with one file.

  Raises:
    UserError: a damaged file, another kind of adapter than plain LoRA, a naming that is not
      supported, or tensors beside the adapters that are none.
  """
  root = epath.Path(split_choice(path)[0])
  folder = root if root.is_dir() else root.parent
  by_peft = (folder / CONFIG).exists() and (root.is_dir() or root.stem == STEM)
  if root.is_dir() and not by_peft and ((root / 'config.json').exists() or not any(
      file.suffix in ENDINGS for file in root.iterdir())):
    return None
  tensors = open_weights(path)
  if by_peft:
    config = read_config(str(folder), CONFIG)
    lora_config.check(config, f'{folder}/{CONFIG}')
    return Found(_adapters(tensors, {PEFT.prefix: config, '': config}, path), CONFIG,
                 config.get('base_model_name_or_path') or '')
  if not lora_names.are_adapters(tensors):
    return None
  configs = lora_config.from_metadata(_metadata(tensors), path)
  with_alpha = any(name.endswith('.alpha') for name in tensors)
  strength = (lora_config.METADATA if configs else 'its tensors' if with_alpha else
              'the ranks, as the file does not say it')
  return Found(_adapters(tensors, configs, path), strength)


def named(adapters: Mapping[str, Adapter], style: Style) -> dict[str, np.ndarray]:
  """The tensors of a file in this style, by name."""
  tensors = {}
  for module, adapter in adapters.items():
    tensors[f'{style.prefix}{module}.{style.down}'] = adapter.down
    tensors[f'{style.prefix}{module}.{style.up}'] = adapter.up
    if style.alpha:
      tensors[f'{style.prefix}{module}.{style.alpha}'] = np.float32(adapter.alpha)
  return tensors


def save(path: str, adapters: Mapping[str, Adapter], style: str, *, base: str = '') -> None:
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


def _metadata(tensors: Mapping[str, Any]) -> Mapping[str, str]:
  """What the header of the safetensors file says beside the tensors."""
  first = next(iter(tensors.values()), None)
  return first.file.metadata if isinstance(first, StoredTensor) else {}


def _adapters(tensors: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]], where: str
              ) -> dict[str, Adapter]:
  """The adapters of a file.

  Args:
    tensors: of the file.
    configs: PEFT's, by the prefix of the modules that they are for.
    where: file named in errors.
  """
  parts = collections.defaultdict(dict)
  unknown = []
  for name, tensor in tensors.items():
    module, part = lora_names.parse(name) or (name, None)
    if part is None or part in parts[module]:
      unknown.append(name)
    else:
      parts[module][part] = np.asarray(tensor)
  if len(unknown) == len(tensors):
    raise user_error(where, None, f'a LoRA in a naming that is not supported: '
                     f'{shorten(sorted(unknown))}; convert it with the program that wrote it')
  unknown += [module for module, own in parts.items()
              if own and not ('down' in own and 'up' in own and own['down'].ndim == 2
                              and own['up'].ndim == 2)]
  if unknown:
    raise user_error(where, None, f'{len(unknown)} tensors that are no plain LoRA of a matrix, or '
                     f'half of one: {shorten(sorted(unknown))}; merge the adapters with the '
                     'program that wrote them')
  return {module: Adapter(own['down'], own['up'], _alpha(own, module, configs, where))
          for module, own in parts.items()}


def _alpha(parts: Mapping[str, np.ndarray], module: str,
           configs: Mapping[str, Mapping[str, Any]], where: str) -> float:
  """Alpha of one adapter: that of its config or tensor, else its rank."""
  rank = len(parts['down'])
  prefix = max((prefix for prefix in configs if module.startswith(prefix)), key=len, default=None)
  stored = lora_config.alpha_in(parts['alpha'], f'{where}: {module}') if 'alpha' in parts else None
  if prefix is None:
    return float(rank) if stored is None else stored
  alpha = lora_config.alpha_of(configs[prefix], module.removeprefix(prefix), rank)
  if stored not in (None, alpha):
    raise user_error(f'{where}: {module}', stored, f'alpha in the tensors, but {alpha} in the '
                     'config; keep one of the two')
  return alpha
