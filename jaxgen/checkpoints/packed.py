"""A small run in one file: config, tokenizers and weights in eight bits, to be shipped.

The file is a zip archive: ``config.json``, ``about.json``, ``tokenizer*/`` and ``weights/``, which
has an array of numpy for each parameter. A matrix has signed eight-bit numbers, and
``<name>.scale`` the step for each index of its last axis, and for each layer where layers are
stacked; the rest has 16 bits.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxgen.checkpoints.weights import load_weights
from jaxgen.checkpoints.weights import save_weights
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.files import new_folder
from jaxgen.core.files import write_bytes

ABOUT = 'about.json'
_WEIGHTS, _SCALE = 'weights/', '.scale'
_LEAST = 1024  # elements from which eight bits are worth a scale
_DATE = (2026, 1, 1, 0, 0, 0)  # so that the same run gives the same bytes


def pack(workdir: str, groups: list[str], file: epath.PathLike, about: Mapping[str, Any]) -> int:
  """Writes the newest checkpoint of a run into one file.

  Args:
    workdir: of the run; its moving average is taken, where it keeps one.
    groups: of parameters.
    file: to write.
    about: what ``read_about`` gives back.

  Returns:
    Its size in bytes.

  Raises:
    UserError: no such run, or the file cannot be written.
  """
  params, config = load_weights(workdir, groups)
  entries = {'config.json': config.encode(), ABOUT: json.dumps(about, indent=2).encode()}
  for part in sorted(epath.Path(workdir).glob('tokenizer*/*')):
    entries[f'{part.parent.name}/{part.name}'] = part.read_bytes()
  for path, leaf in sorted(trees.flatten(params).items()):
    for suffix, array in _packed(np.asarray(leaf, np.float32)).items():
      entries[f'{_WEIGHTS}{path}{suffix}'] = _to_bytes(array)
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
    for name, data in entries.items():
      archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
  write_bytes(file, buffer.getvalue())
  return len(buffer.getvalue())


def unpack(file: epath.PathLike, folder: str) -> None:
  """Writes the run in a file as a weights folder with its tokenizers, for every command.

  Args:
    file: that ``pack`` wrote.
    folder: to write; must be empty or not exist.

  Raises:
    UserError: the file is damaged, or the folder is not empty or cannot be written.
  """
  with _opened(file) as archive:
    arrays = {name.removeprefix(_WEIGHTS): np.load(io.BytesIO(archive.read(name)))
              for name in archive.namelist() if name.startswith(_WEIGHTS)}
    params = {path: _unpacked(array, arrays.get(f'{path}{_SCALE}'))
              for path, array in arrays.items() if not path.endswith(_SCALE)}
    # In a folder of its own until the tokenizers are there too: weights without them would be taken
    # for a whole run by every later command.
    with new_folder(folder) as partial:
      save_weights(str(partial), trees.unflatten(params), archive.read('config.json').decode())
      for name in archive.namelist():
        if name.startswith('tokenizer'):
          write_bytes(partial / name, archive.read(name))


def read_about(file: epath.PathLike) -> dict[str, Any]:
  """What was said of the run when it was packed."""
  with _opened(file) as archive:
    return json.loads(archive.read(ABOUT))


def _opened(file: epath.PathLike) -> zipfile.ZipFile:
  try:
    return zipfile.ZipFile(io.BytesIO(epath.Path(file).read_bytes()))
  except (OSError, zipfile.BadZipFile) as error:
    raise user_error(str(file), None, f'damaged ({error}); install jaxgen again') from error


def _packed(array: np.ndarray) -> dict[str, np.ndarray]:
  """float32[...] as what is stored of it, by suffix of its name."""
  if array.ndim < 2 or array.size < _LEAST:
    return {'': array.astype(np.float16)}
  inputs = tuple(range(array.ndim > 2, array.ndim - 1))
  scale = np.maximum(np.abs(array).max(inputs, keepdims=True) / 127, np.float32(1e-7))
  scale = scale.astype(np.float16).astype(np.float32)
  steps = np.clip(np.round(array / scale), -127, 127)
  return {'': steps.astype(np.int8), _SCALE: scale.astype(np.float16)}


def _unpacked(array: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
  array = array.astype(np.float32)
  return array if scale is None else array * scale.astype(np.float32)


def _to_bytes(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()
