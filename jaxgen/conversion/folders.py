"""Model folders of Hugging Face libraries: ``config.json`` and safetensors, streamed."""

import json
from collections.abc import Mapping
from typing import Any
from typing import BinaryIO

import numpy as np
from etils import epath

from jaxgen.conversion import class_configs
from jaxgen.conversion.engine import Unwritten
from jaxgen.conversion.stored import NAMES
from jaxgen.conversion.stored import SafetensorsFile
from jaxgen.conversion.stored import StoredTensor
from jaxgen.conversion.streaming import SLAB
from jaxgen.conversion.streaming import copy_reordered
from jaxgen.conversion.torch_files import ENDINGS as TORCH_ENDINGS
from jaxgen.conversion.torch_files import TorchTensor
from jaxgen.conversion.torch_files import open_torch
from jaxgen.conversion.weight_files import find_files
from jaxgen.conversion.weight_files import read_json
from jaxgen.conversion.weight_files import split_choice
from jaxgen.core.errors import user_error
from jaxgen.core.files import new_folder
from jaxgen.core.files import write_text
from jaxgen.core.mismatch import shorten

_SHARD_BYTES = 5_000_000_000
CONFIG = 'config.json'
HEAD = 'lm_head.weight'


def load_folder(folder: str, config: str = CONFIG
                ) -> tuple[dict[str, Any], dict[str, StoredTensor | TorchTensor]]:
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
  return read_config(folder, config), open_weights(folder)


def open_weights(path: str) -> dict[str, StoredTensor | TorchTensor]:
  """The tensors of a file, of the files of an index, or of the weight files of a folder.

  None of them is read yet.

  Args:
    path: ``file.pt#name`` chooses a dictionary of a PyTorch file.

  Raises:
    UserError: no weights there, or a damaged or refused file.
  """
  path, choice = split_choice(path)
  files, index, promised = find_files(path)
  tensors: dict[str, StoredTensor | TorchTensor] = {}
  for file in files:
    tensors.update(open_torch(str(file), choice) if file.suffix in TORCH_ENDINGS
                   else SafetensorsFile(str(file)))
  absent = sorted(promised - tensors.keys())
  if absent and not (all(name.endswith(HEAD) for name in absent) and _ties(index.parent)):
    raise user_error(str(index), None, f'names {len(absent)} tensors that its files lack: '
                     f'{shorten(absent)}; copy the folder again')
  return tensors


def read_config(folder: str, config: str = CONFIG) -> dict[str, Any]:
  """The folder's config file."""
  return read_json(epath.Path(folder) / config)


def save_folder(folder: str, config: Mapping[str, Any],
                tensors: Mapping[str, np.ndarray | Unwritten], *,
                stem: str, shard_bytes: int = _SHARD_BYTES, config_name: str = CONFIG) -> None:
  """Writes a model folder in one piece: a temporary sibling is filled, then renamed.

  Args:
    folder: where to; must not exist, or be empty.
    config: contents of the config file.
    tensors: arrays by name, made one after another in the order of ``in_file_order``.
    stem: ``model`` for transformers, ``diffusion_pytorch_model`` for diffusers.
    shard_bytes: most bytes of one file; more are split, with an index.
    config_name: name of the config file.

  Raises:
    UserError: the folder holds something already, or the disk is full.
  """
  with new_folder(folder, last=config_name) as partial:
    write_text(partial / config_name, json.dumps(dict(config), indent=2, sort_keys=True))
    _write_shards(partial, tensors, stem, shard_bytes)


def in_file_order(tensors: Mapping[str, np.ndarray | Unwritten]) -> list[str]:
  """Tensor names in file order: wide dtypes first, so that every tensor is aligned."""
  return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def write_file(path: str, tensors: Mapping[str, np.ndarray | Unwritten]) -> None:
  """Writes a safetensors file, of which no more than one tensor and a slab is held at once.

  Args:
    path: of the file, here or in a bucket.
    tensors: arrays by name.
  """
  header, end = {'__metadata__': {'format': 'pt'}}, 0
  for name in in_file_order(tensors):
    start, end = end, end + tensors[name].nbytes
    header[name] = {'dtype': NAMES[tensors[name].dtype], 'shape': list(tensors[name].shape),
                    'data_offsets': [start, end]}
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with epath.Path(path).open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for name in in_file_order(tensors):
      _write_array(file, np.asarray(tensors[name]))


def _ties(folder: epath.Path) -> bool:
  """Whether the model of a folder has no output head but its embeddings, whatever names it."""
  if not (folder / CONFIG).exists() or 'model_type' not in (config := read_json(folder / CONFIG)):
    return False
  return bool(class_configs.completed(config, str(folder / CONFIG)).get('tie_word_embeddings'))


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
  """The values in C order, some rows at a time where they lie in another."""
  if array.flags.c_contiguous:
    file.write(array.reshape(-1).view(np.uint8).data)
    return
  step = max(1, SLAB * len(array) // array.nbytes)
  for start in range(0, len(array), step):
    rows = np.empty(array[start:start + step].shape, array.dtype)
    copy_reordered(rows, array[start:start + step])
    file.write(rows.reshape(-1).view(np.uint8).data)


def _write_shards(root: epath.Path, tensors: Mapping[str, np.ndarray | Unwritten], stem: str,
                  shard_bytes: int) -> None:
  shards: list[list[str]] = [[]]
  used = 0
  for name in in_file_order(tensors):
    if shards[-1] and used + tensors[name].nbytes > shard_bytes:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += tensors[name].nbytes
  weight_map = {}
  for number, names in enumerate(shards, 1):
    file = (f'{stem}.safetensors' if len(shards) == 1
            else f'{stem}-{number:05d}-of-{len(shards):05d}.safetensors')
    write_file(str(root / file), {name: tensors[name] for name in names})
    weight_map |= dict.fromkeys(names, file)
  if len(shards) > 1:
    total = sum(tensors[name].nbytes for name in tensors)
    (root / f'{stem}.safetensors.index.json').write_text(json.dumps(
        {'metadata': {'total_size': total}, 'weight_map': weight_map}, indent=2))
