"""Model folders of Hugging Face libraries: ``config.json`` and safetensors, streamed."""

import dataclasses
import json
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from jaxgen.core.errors import user_error

_SHARD_BYTES = 5_000_000_000
# File names of transformers, diffusers and PEFT.
_STEMS = ('model', 'diffusion_pytorch_model', 'adapter_model')
CONFIG = 'config.json'


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """A tensor in a safetensors file; ``np.asarray`` reads it from the disk.

  Attributes:
    file: path of the safetensors file.
    name: tensor name in the file.
    shape: sizes, known without reading.
  """

  file: str
  name: str
  shape: tuple[int, ...]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    with safetensors.safe_open(self.file, 'numpy') as file:
      array = file.get_tensor(self.name)
    return array if dtype is None else array.astype(dtype)


def load_folder(folder: str, config: str = CONFIG
                ) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
  """Opens a model folder without reading its tensors.

  Args:
    folder: where the model is.
    config: name of its config file.

  Returns:
    ``(config, tensors by name)``.

  Raises:
    UserError: a missing folder, config or shard, broken JSON, or a damaged safetensors file.
  """
  root = epath.Path(folder)
  if not root.is_dir():
    raise user_error(str(folder), None, 'no such folder; give a folder with config.json and '
                     'safetensors')
  contents = read_config(folder, config)
  tensors: dict[str, StoredTensor] = {}
  for file in _weight_files(root):
    tensors.update(_open_file(file))
  return contents, tensors


def read_config(folder: str, config: str = CONFIG) -> dict[str, Any]:
  """The folder's config file."""
  return _read_json(epath.Path(folder) / config)


def save_folder(folder: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], *,
                stem: str, shard_bytes: int = _SHARD_BYTES, config_name: str = CONFIG) -> None:
  """Writes a model folder in one piece: a temporary sibling is filled, then renamed.

  Args:
    folder: where to; must not exist, or be empty.
    config: contents of the config file.
    tensors: arrays by name, made contiguous shard by shard.
    stem: ``model`` for transformers, ``diffusion_pytorch_model`` for diffusers.
    shard_bytes: most bytes of one file; more are split, with an index.
    config_name: name of the config file.

  Raises:
    UserError: the folder holds something already, or the disk is full.
  """
  target = epath.Path(folder)
  if target.exists() and any(target.iterdir()):
    raise user_error(str(folder), None, 'not empty; choose another --out or remove it')
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.parent / f'{target.name}.partial-{uuid.uuid4().hex[:8]}'
  partial.mkdir()
  try:
    (partial / config_name).write_text(json.dumps(dict(config), indent=2, sort_keys=True))
    _write_shards(partial, tensors, stem, shard_bytes)
    if target.exists():
      target.rmdir()
    partial.rename(target)
  except (OSError, safetensors.SafetensorError) as error:
    raise user_error(str(folder), None, f'could not be written ({error}); free space or choose '
                     'another --out') from error
  finally:
    if partial.exists():
      partial.rmtree()


def _weight_files(root: epath.Path) -> list[epath.Path]:
  """The safetensors files of a folder, by its index where it has one."""
  for stem in _STEMS:
    index = root / f'{stem}.safetensors.index.json'
    if index.exists():
      names = sorted(set(_read_json(index).get('weight_map', {}).values()))
      if not names:
        raise user_error(str(index), None, 'has no weight_map; copy the folder again')
      absent = [name for name in names if not (root / name).exists()]
      if absent:
        raise user_error(str(index), absent, 'these files are missing; copy the folder again')
      return [root / name for name in names]
  files = [root / f'{stem}.safetensors' for stem in _STEMS]
  found = [file for file in files if file.exists()]
  if len(found) != 1:
    raise user_error(str(root), [file.name for file in found],
                     f'must hold one of {[file.name for file in files]}, or an index')
  return found


def _open_file(path: epath.Path) -> dict[str, StoredTensor]:
  try:
    with safetensors.safe_open(str(path), 'numpy') as file:
      return {name: StoredTensor(str(path), name, tuple(file.get_slice(name).get_shape()))
              for name in file.keys()}
  except (OSError, safetensors.SafetensorError) as error:
    raise user_error(str(path), None, f'damaged or cut short ({error}); copy the file again'
                     ) from error


def _read_json(path: epath.Path) -> dict[str, Any]:
  if not path.exists():
    raise user_error(str(path), None, 'no such file; is this the folder of a model?')
  try:
    value = json.loads(path.read_text())
  except ValueError as error:
    raise user_error(str(path), None, f'not valid JSON ({error}); copy the file again') from error
  if not isinstance(value, dict):
    raise user_error(str(path), None, 'must hold a JSON object; copy the file again')
  return value


def _write_shards(root: epath.Path, tensors: Mapping[str, np.ndarray], stem: str,
                  shard_bytes: int) -> None:
  shards: list[list[str]] = [[]]
  used = 0
  for name in sorted(tensors):
    if shards[-1] and used + tensors[name].nbytes > shard_bytes:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += tensors[name].nbytes
  weight_map = {}
  for number, names in enumerate(shards, 1):
    file = (f'{stem}.safetensors' if len(shards) == 1
            else f'{stem}-{number:05d}-of-{len(shards):05d}.safetensors')
    # save_file writes the buffer as it lies in memory, so a view must be copied first.
    shard = {name: np.ascontiguousarray(tensors[name]) for name in names}
    safetensors.numpy.save_file(shard, str(root / file), metadata={'format': 'pt'})
    weight_map |= dict.fromkeys(names, file)
  if len(shards) > 1:
    total = sum(tensors[name].nbytes for name in tensors)
    (root / f'{stem}.safetensors.index.json').write_text(json.dumps(
        {'metadata': {'total_size': total}, 'weight_map': weight_map}, indent=2))
