"""Transforms of one array between PyTorch's layout and ours, as data that reads both ways.

Every transform knows ``read`` (their array to ours), ``write`` (the inverse) and
``written_shape`` (the shape that ``write`` gives, from the shape alone). A rule applies its
transforms in order when reading and backwards when writing.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]


class Transform(Protocol):
  """What the engine asks of a transform."""

  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    """Their array in our layout; ``shape`` is the shape that must come out."""

  def write(self, array: np.ndarray) -> np.ndarray:
    """Our array in their layout."""

  def written_shape(self, shape: Shape) -> Shape:
    """Shape of ``write`` for an array of ``shape``."""


@dataclasses.dataclass(frozen=True)
class Permute:
  """Ours is theirs with its dimensions in the order ``axes``."""

  axes: tuple[int, ...]

  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    return array.transpose(self.axes)

  def write(self, array: np.ndarray) -> np.ndarray:
    return array.transpose(np.argsort(self.axes))

  def written_shape(self, shape: Shape) -> Shape:
    return tuple(shape[index] for index in np.argsort(self.axes))


@dataclasses.dataclass(frozen=True)
class Split:
  """Ours has ``into`` dimensions, from ``axis`` on, where theirs has their product."""

  axis: int
  into: int

  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    return array.reshape(shape)

  def write(self, array: np.ndarray) -> np.ndarray:
    return array.reshape(self.written_shape(array.shape))

  def written_shape(self, shape: Shape) -> Shape:
    end = self.axis + self.into
    return shape[:self.axis] + (math.prod(shape[self.axis:end]),) + shape[end:]


@dataclasses.dataclass(frozen=True)
class Squeeze:
  """Theirs has dimensions of size 1 at ``axes`` that ours lacks."""

  axes: tuple[int, ...]

  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    return array.reshape(shape)

  def write(self, array: np.ndarray) -> np.ndarray:
    return np.expand_dims(array, self.axes)

  def written_shape(self, shape: Shape) -> Shape:
    rest = iter(shape)
    return tuple(1 if axis in self.axes else next(rest)
                 for axis in range(len(shape) + len(self.axes)))


@dataclasses.dataclass(frozen=True)
class PatchKernel:
  """A convolution over square patches (O, *leading, p, p) as our matrix (leading p p, O).

  Attributes:
    leading: colours, and frames where patches have any.
  """

  leading: tuple[int, ...] = (3,)

  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    return array.reshape(array.shape[0], -1).T

  def write(self, array: np.ndarray) -> np.ndarray:
    return array.T.reshape(self.written_shape(array.shape))

  def written_shape(self, shape: Shape) -> Shape:
    side = math.isqrt(shape[0] // math.prod(self.leading))
    return (shape[1], *self.leading, side, side)


@dataclasses.dataclass(frozen=True)
class TokenOrder:
  """Theirs orders the channels of a token by pixel (p, p, c) along ``axis``, ours (c, p, p).

  Attributes:
    axis: dimension of the token's channels.
    area: pixels p x p of a token.
  """

  axis: int
  area: int

  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    return self._swap(array, self.area, shape[self.axis] // self.area)

  def write(self, array: np.ndarray) -> np.ndarray:
    return self._swap(array, array.shape[self.axis] // self.area, self.area)

  def written_shape(self, shape: Shape) -> Shape:
    return shape

  def _swap(self, array: np.ndarray, slow: int, fast: int) -> np.ndarray:
    before, after = array.shape[:self.axis], array.shape[self.axis + 1:]
    split = array.reshape(*before, slow, fast, *after)
    return split.swapaxes(self.axis, self.axis + 1).reshape(array.shape)


SAME: tuple[Transform, ...] = ()
LINEAR = (Permute((1, 0)),)  # (out, in) -> (in, out)
CONV = (Permute((2, 3, 1, 0)),)  # (O, I, H, W) -> (H, W, I, O)
CONV3D = (Permute((2, 3, 4, 1, 0)),)  # (O, I, T, H, W) -> (T, H, W, I, O)
HEADS_OUT = (Permute((1, 0)), Split(1, 2))  # (N H, D) -> (D, N, H)
HEADS_IN = (Permute((1, 0)), Split(0, 2))  # (D, N H) -> (N, H, D)
HEADS_BIAS = (Split(0, 2),)  # (N H,) -> (N, H)
