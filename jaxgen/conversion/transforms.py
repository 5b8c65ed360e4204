"""Transforms of one array between PyTorch's layout and ours, as data that reads both ways.

Every transform knows ``read`` (their array to ours), ``write`` (the inverse) and
``written_shape`` (the shape that ``write`` gives, from the shape alone). A rule applies its
transforms in order when reading and backwards when writing. ``cut`` says which part of theirs a
part of ours is made of, so that a host need not read more.
"""

import abc
import dataclasses
import math
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
Box = tuple[slice, ...]  # one slice with start and stop for each dimension


def whole(shape: Shape) -> Box:
  """The box that is all of an array."""
  return tuple(slice(0, size) for size in shape)


def sizes(box: Box) -> Shape:
  """The shape of a box."""
  return tuple(part.stop - part.start for part in box)


def within(box: Box, outer: Box) -> Box:
  """A box as seen from the start of one around it."""
  return tuple(slice(part.start - around.start, part.stop - around.start)
               for part, around in zip(box, outer, strict=True))


class Cut(NamedTuple):
  """A part of an array on both sides of a transform.

  Attributes:
    ours: the smallest box around the one asked for that can be had on its own.
    theirs: the box of theirs that it is made of.
    transform: reads the one from the other.
  """

  ours: Box
  theirs: Box
  transform: 'Transform'


class Transform(abc.ABC):
  """What the engine asks of a transform."""

  @abc.abstractmethod
  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    """Their array in our layout; ``shape`` is the shape that must come out."""

  @abc.abstractmethod
  def write(self, array: np.ndarray) -> np.ndarray:
    """Our array in their layout."""

  @abc.abstractmethod
  def written_shape(self, shape: Shape) -> Shape:
    """Shape of ``write`` for an array of ``shape``."""

  def cut(self, box: Box, shape: Shape) -> Cut:
    """What a box of our array of ``shape`` is made of; the whole, unless a transform knows."""
    return Cut(whole(shape), whole(self.written_shape(shape)), self)


@dataclasses.dataclass(frozen=True)
class Permute(Transform):
  """Ours is theirs with its dimensions in the order ``axes``."""

  axes: tuple[int, ...]

  def read(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    return array.transpose(self.axes)

  def write(self, array: np.ndarray) -> np.ndarray:
    return array.transpose(np.argsort(self.axes))

  def written_shape(self, shape: Shape) -> Shape:
    return tuple(shape[index] for index in np.argsort(self.axes))

  def cut(self, box: Box, shape: Shape) -> Cut:
    return Cut(box, tuple(box[index] for index in np.argsort(self.axes)), self)


@dataclasses.dataclass(frozen=True)
class Split(Transform):
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

  def cut(self, box: Box, shape: Shape) -> Cut:
    """Only what lies side by side in their dimension can be had on its own."""
    end = self.axis + self.into
    parts, dims = list(box[self.axis:end]), shape[self.axis:end]
    first = next((index for index, size in enumerate(sizes(tuple(parts))) if size != 1),
                 self.into - 1)
    parts[first + 1:] = whole(dims[first + 1:])
    start = int(np.ravel_multi_index([part.start for part in parts], dims))
    joined = slice(start, start + math.prod(sizes(tuple(parts))))
    return Cut((*box[:self.axis], *parts, *box[end:]),
               (*box[:self.axis], joined, *box[end:]), self)


@dataclasses.dataclass(frozen=True)
class Squeeze(Transform):
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

  def cut(self, box: Box, shape: Shape) -> Cut:
    rest = iter(box)
    return Cut(box, tuple(slice(0, 1) if axis in self.axes else next(rest)
                          for axis in range(len(shape) + len(self.axes))), self)


@dataclasses.dataclass(frozen=True)
class PatchKernel(Transform):
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
class TokenOrder(Transform):
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

  def cut(self, box: Box, shape: Shape) -> Cut:
    kept = (*box[:self.axis], slice(0, shape[self.axis]), *box[self.axis + 1:])
    return Cut(kept, kept, self)

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
