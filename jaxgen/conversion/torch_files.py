"""Tensors of PyTorch's own files (``.pt``, ``.pth``), mapped into memory, never executed.

Such a file is a pickle, which may hold code. It is read with ``weights_only=True`` alone: what is
more than tensors in dictionaries is refused.
"""

import dataclasses
import functools
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from jaxgen.conversion.stored import NAMES
from jaxgen.conversion.stored import UNSUPPORTED
from jaxgen.conversion.transforms import Box
from jaxgen.conversion.transforms import whole
from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket

ENDINGS = ('.pt', '.pth', '.bin')
# Where training code puts the weights within a checkpoint, unlike its moving averages.
_USUAL = {'module', 'model', 'state_dict', 'params'}
_DEPTH = 4  # of dictionaries


@dataclasses.dataclass(frozen=True)
class TorchTensor:
  """A tensor of a PyTorch file; ``tensor[box]`` and ``np.asarray`` read it."""

  tensor: Any
  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, box: Box) -> np.ndarray:
    return np.ascontiguousarray(self._bits()[box]).view(self.dtype)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    array = self[whole(self.shape)]
    return array if dtype is None else array.astype(dtype)

  def _bits(self) -> np.ndarray:
    import torch  # numpy does not know all of its dtypes
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return self.tensor.view(sizes[self.dtype.itemsize]).numpy()


def open_torch(path: str, choice: str = '') -> dict[str, TorchTensor]:
  """The tensors of a file by name, none of them read yet.

  Args:
    path: of the file.
    choice: name of the dictionary to take, '/' between levels; '' = the only one, or the one
      that is named as weights are (``model``, ``module``, ``state_dict``, ``params``).

  Raises:
    UserError: PyTorch is not there, the file is damaged, holds more than tensors, or none; no
      dictionary of that name, or several and no choice.
  """
  with tempfile.TemporaryDirectory(prefix='jaxgen-') as folder:
    file = path
    if in_bucket(path):  # a mapped file outlives its name, so the copy goes at once
      file = str(epath.Path(path).copy(epath.Path(folder) / 'weights'))
    found = _load(path, file)
  held = dict(_dictionaries(found))
  if not held:
    raise user_error(path, None, 'holds no dictionary of tensors; save the state_dict as '
                     'safetensors')
  return {name: TorchTensor(tensor.detach(), tuple(tensor.shape), _dtype(path, name, tensor))
          for name, tensor in held[_chosen(path, list(held), choice)].items()
          if tensor is not None}


def _dictionaries(found: Any, name: str = '', depth: int = 0) -> Iterator[tuple[str, Mapping]]:
  """The dictionaries of tensors in a file, and their names; None stands for no tensor."""
  import torch
  if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
    return
  values = list(found.values())
  if (any(isinstance(value, torch.Tensor) for value in values)
      and all(value is None or isinstance(value, torch.Tensor) for value in values)):
    yield name, found
  elif depth < _DEPTH:
    for key, value in found.items():
      yield from _dictionaries(value, f'{name}/{key}'.lstrip('/'), depth + 1)


def _chosen(path: str, names: list[str], choice: str) -> str:
  """The name of the dictionary that is read; says so where there are several."""
  if choice:
    if choice not in names:
      raise user_error(path, choice, f'no such dictionary of tensors; it holds {names}')
    return choice
  usual = [name for name in names if set(name.split('/')) <= _USUAL]
  choices = names if len(names) == 1 else usual
  if len(choices) != 1:
    raise user_error(path, None, f'holds several dictionaries of tensors: {names}; choose one as '
                     f'{path}#{names[0]}')
  if len(names) > 1:
    _say(f'{path}: takes {choices[0]!r} of the dictionaries {names}; another is chosen as '
         f'{path}#{next(name for name in names if name != choices[0])}')
  return choices[0]


@functools.cache
def _say(text: str) -> None:
  """Prints a line, once, however often the file is opened."""
  print(text, file=sys.stderr, flush=True)


def _load(path: str, file: str) -> Any:
  try:
    import torch
  except ImportError as error:
    raise user_error(path, None, 'reading this file needs PyTorch; install torch==2.13.0, or save '
                     'the weights as safetensors') from error
  try:
    return torch.load(file, map_location='cpu', weights_only=True, mmap=_is_zip(file))
  except pickle.UnpicklingError as error:
    raise user_error(path, None, 'refused: a pickle that holds more than tensors, possibly code '
                     f'({_first_sentence(error)}); save its state_dict as safetensors') from error
  except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
    raise user_error(path, None, f'damaged or cut short ({_first_sentence(error)}); copy the file '
                     'again') from error


def _is_zip(path: str) -> bool:
  """Whether the file has the format since PyTorch 1.6, the only one that can be mapped."""
  with open(path, 'rb') as file:
    return file.read(4) == b'PK\x03\x04'


def _dtype(path: str, name: str, tensor: Any) -> np.dtype:
  name_of = str(tensor.dtype).removeprefix('torch.')
  try:
    dtype = np.dtype(getattr(ml_dtypes, name_of, None) or name_of)
  except TypeError:
    dtype = None
  if dtype not in NAMES:
    raise user_error(f'{path}: {name}', name_of, UNSUPPORTED)
  return dtype


def _first_sentence(error: Exception) -> str:
  return ' '.join(str(error).split())[:120]
