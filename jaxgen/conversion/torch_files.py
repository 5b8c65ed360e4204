"""Tensors of PyTorch's own files (``.pt``, ``.pth``), mapped into memory, never executed.

Such a file is a pickle, which may hold code. It is read with ``weights_only=True`` alone: what is
more than tensors in dictionaries is refused.
"""

import dataclasses
import pickle
import tempfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from jaxgen.conversion.transforms import Box
from jaxgen.conversion.transforms import whole
from jaxgen.core.errors import user_error

ENDINGS = ('.pt', '.pth')
# Where training code puts the weights within a checkpoint.
_NESTS = ('module', 'model', 'state_dict')


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


def open_torch(path: str) -> dict[str, TorchTensor]:
  """The tensors of a file by name, none of them read yet.

  Raises:
    UserError: PyTorch is not there, or the file is damaged, holds more than tensors, or none.
  """
  with tempfile.TemporaryDirectory(prefix='jaxgen-') as folder:
    file = path
    if '://' in path:  # a mapped file outlives its name, so the copy goes at once
      file = str(epath.Path(path).copy(epath.Path(folder) / 'weights'))
    found = _load(path, file)
  for nest in _NESTS:
    if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
      found = found[nest]
  import torch
  if not isinstance(found, Mapping) or not found or not all(
      isinstance(value, torch.Tensor) for value in found.values()):
    raise user_error(path, None, 'holds no dictionary of tensors, neither at the top nor under '
                     f'{", ".join(_NESTS)}; save the state_dict as safetensors')
  return {name: TorchTensor(tensor.detach(), tuple(tensor.shape), _dtype(path, name, tensor))
          for name, tensor in found.items()}


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
    return np.dtype(getattr(ml_dtypes, name_of, None) or name_of)
  except TypeError as error:
    raise user_error(f'{path}: {name}', name_of, 'no dtype of weights; convert it to float32 or '
                     'bfloat16') from error


def _first_sentence(error: Exception) -> str:
  return ' '.join(str(error).split())[:120]
