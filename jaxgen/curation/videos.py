"""Frames of video files as they are shown: rotated, at their own times, or named as broken."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxgen.core.files import one_line
from jaxgen.curation.extras import extra
from jaxgen.data.decode import DecodeError

# A stream may end so many seconds before its container says, as where sound goes on.
_SLACK = 1.0


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame.

  Attributes:
    time: seconds from the start of the video.
    pixels: uint8[H, W, 3].
  """

  time: float
  pixels: np.ndarray


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[Any, Any]]:
  """The container and the video stream of a file.

  Raises:
    DecodeError: no such file, no video in it, or damage, also while frames are read.
    UserError: PyAV is not installed.
  """
  av = extra('av', 'av')
  try:
    with av.open(path) as container:
      if not container.streams.video:
        raise DecodeError('no video in it')
      stream = container.streams.video[0]
      stream.thread_type = 'AUTO'
      yield container, stream
  except (av.error.FFmpegError, OSError, ValueError) as error:
    raise DecodeError(f'{type(error).__name__}: {one_line(error)}') from error


def length(path: str) -> float:
  """Seconds that the file says it lasts; 0 where it does not say."""
  with opened(path) as (container, stream):
    if stream.duration is not None:
      return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def rate(path: str) -> float:
  """Frames per second on average; 25 where the file does not say."""
  with opened(path) as (_, stream):
    return float(stream.average_rate or stream.guessed_rate or 25)


def frames(path: str, start: float = 0.0, end: float = float('inf'), side: int = 0
           ) -> Iterator[Frame]:
  """Frames whose times are in [start, end), in order.

  Times are those that the file gives its frames, so that a variable frame rate is no matter.

  Args:
    path: the file.
    start, end: seconds.
    side: pixels of the longer side at the most; 0 is as it is.

  Raises:
    DecodeError: as ``opened``, or the file ends long before it says.
  """
  time = -1.0
  for time, shown in _decoded(path, start, end):
    yield Frame(time, shown(side))
  if end == float('inf') and time + _SLACK < length(path):
    raise DecodeError(f'cut short: ends at {max(time, 0):.1f} of {length(path):.1f} s')


@dataclasses.dataclass(frozen=True)
class Ends:
  """What is read of a clip.

  Attributes:
    first, last: frames in full.
    looks: the same two, small.
    small: frames at a fixed rate from the first one on.
  """

  first: Frame
  last: Frame
  looks: tuple[Frame, Frame]
  small: list[Frame]


def ends(path: str, start: float, end: float, rate: float, side: int) -> Ends:
  """First and last frame in [start, end), and small ones between them for motion.

  Args:
    path, start, end: as for ``frames``.
    rate: small frames in a second, at the most.
    side: of the small frames.

  Raises:
    DecodeError: as ``opened``, or there are no two frames.
  """
  first, time = None, start
  small: list[Frame] = []
  for time, shown in _decoded(path, start, end):
    first = first or Frame(time, shown(0))
    # Half a frame of slack, because times are rounded.
    if not small or time - small[-1].time >= 1 / rate - 0.01:
      small.append(Frame(time, shown(side)))
  if first is None or time == first.time:
    raise DecodeError(f'fewer than two frames from {start:.2f} to {end:.2f} s')
  return Ends(first, Frame(time, shown(0)), (small[0], Frame(time, shown(side))), small)


def _decoded(path: str, start: float, end: float
             ) -> Iterator[tuple[float, Callable[[int], np.ndarray]]]:
  """Times of frames, and what gives the pixels of each; decodes from the key frame before on."""
  with opened(path) as (container, stream):
    base = stream.time_base
    origin = float((stream.start_time or 0) * base)
    if start > 0:
      container.seek(int((start + origin) / base), stream=stream, backward=True)
    step = float(1 / (stream.average_rate or stream.guessed_rate or 25))
    time, ratio = -step, float(stream.sample_aspect_ratio or 1)
    # One for all frames: a frame's own ``to_ndarray`` sets up the conversion each time.
    resizer = extra('av.video.reformatter', 'av').VideoReformatter()
    for frame in container.decode(stream):
      time = time + step if frame.time is None else float(frame.time) - origin
      if time >= end - 1e-6:
        return
      if time >= start - 1e-6:
        yield time, functools.partial(_pixels, frame, resizer, ratio)


def _pixels(frame: Any, resizer: Any, ratio: float, side: int) -> np.ndarray:
  """uint8[H, W, 3] as shown: square pixels, upright; ``ratio`` is the width of a stored pixel."""
  height, width = frame.height, round(frame.width * ratio)
  scale = min(1.0, side / max(height, width)) if side else 1.0
  size = max(round(height * scale), 1), max(round(width * scale), 1)
  pixels = resizer.reformat(frame, size[1], size[0], 'rgb24').to_ndarray()
  turns = round(frame.rotation / 90) % 4  # counter-clockwise
  return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
