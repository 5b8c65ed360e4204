"""Stages that measure how much moves in a clip, and keep or repeat it by that (L012)."""

from collections.abc import Iterator

import numpy as np

from jaxgen.core.image_files import to_png
from jaxgen.curation.clips import TRANSITION
from jaxgen.curation.extras import opencv
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record


def motion(record: Record, *, model: Model | None = None) -> Record:
  """Mean magnitude of the optical flow, in diagonals of the image per second.

  The flow is that of neighbouring small frames, by OpenCV's DIS method, or by a model such as RAFT.

  Args:
    record: with ``kind``, and ``small`` and ``times`` of ``end_frames``, which it loses. It gets
      ``motion``, but across a cut, where a flow has no meaning; stages below let that pass.
    model: by ``Use``: an ONNX file of two images with an output ``flow``, float32[2, h, w], pixels
      in x and y of its own h x w.
  """
  small, times, record = record['small'], record['times'], record.without('small', 'times')
  if record['kind'] == TRANSITION:
    return record
  seen = [0.0] if len(small) < 2 else [
      length / (later - earlier) for length, earlier, later in zip(
          _lengths(small, model), times, times[1:])]
  value = round(float(np.mean(seen)), 5)
  return record.having(motion=value).noting(motion=value)


def moving(record: Record, *, least: float, most: float = float('inf')) -> Record | Dropped:
  """Keeps clips whose ``motion`` is within bounds.

  Args:
    record: with ``motion``.
    least, most: diagonals per second.
  """
  value = record.fields.get('motion', least)
  if value < least:
    return record.drop('still', motion=value)
  return record if value <= most else record.drop('too fast', motion=value)


def weighted(record: Record, *, typical: float, most: int = 3, seed: int = 0
             ) -> Iterator[Record | Dropped]:
  """Repeats clips by their motion, so that those that move more are seen more often.

  A clip of ``typical`` motion is kept once, one of twice as much twice, one of half as much with
  probability 1/2.

  Args:
    record: with ``motion``.
    typical: diagonals per second.
    most: copies.
    seed: of what is drawn where the number is no whole one.
  """
  wanted = min(record.fields.get('motion', typical) / typical, most)
  copies = int(wanted + record.rng(seed).random())
  if not copies:
    yield record.drop('little motion, not drawn', motion=record['motion'])
  for number in range(copies):
    yield record.child(f'copy-{number}') if number else record


def _lengths(small: np.ndarray, model: Model | None) -> list[float]:
  """Mean length of the flow between neighbours, in diagonals; small is uint8[T, h, w, 3]."""
  if model is None:
    return _dis(small)
  images = [to_png(frame) for frame in small]
  replies = model.ask([Request(images=pair) for pair in zip(images, images[1:])])
  return [_length(reply.arrays['flow'].transpose(1, 2, 0)) for reply in replies]


def _dis(small: np.ndarray) -> list[float]:
  cv2 = opencv()
  finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
  grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small]
  return [_length(finder.calc(earlier, later, None)) for earlier, later in zip(grey, grey[1:])]


def _length(flow: np.ndarray) -> float:
  """flow is float32[h, w, 2]."""
  return float(np.linalg.norm(flow, axis=-1).mean() / np.hypot(*flow.shape[:2]))
