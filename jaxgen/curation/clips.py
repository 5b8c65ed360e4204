"""Stages that turn videos into pairs of frames: cuts, clips, motion, captions.

iMontage (section 3.2.1, L011 to L013), DuetGen (section 3.2, L124), Query-Kontext (section B.2).
"""

import io
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxgen.curation import videos
from jaxgen.curation.extras import extra
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.hashes import image_hash
from jaxgen.data.hashes import images_apart
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample

CLIP, TRANSITION = 'clip', 'transition'  # within one scene, and across a cut
# Wording of ours after section 3.2 of DuetGen, which does not print its prompt.
TRANSITION_PROMPT = (
    'These are the first and the last frame of a short video. Write the instruction that turns the '
    'first into the last, in at most 64 words: how objects move, what people do, and how the '
    'camera moves. Write the instruction alone.')


def scenes(record: Record, *, detector: str = 'adaptive', threshold: float = 3.0,
           shortest: float = 0.5, side: int = 192) -> Record | Dropped:
  """Finds the cuts of a video by PySceneDetect, in one pass over small frames.

  Args:
    record: with ``path``. It gets ``cuts``, seconds of the first frame behind each cut, and
      ``length``, seconds up to the end of the last frame.
    detector: ``adaptive``, which a fast pan does not deceive, or ``content``.
    threshold: of the detector.
    shortest: seconds of a scene.
    side: pixels of the longer side that are looked at.
  """
  times, found = [], []
  rate = videos.rate(record['path'])
  finder = _detector(detector, threshold, max(round(shortest * rate), 1))
  code_of = extra('scenedetect', 'scenedetect-headless').FrameTimecode
  for number, frame in enumerate(videos.frames(record['path'], side=side)):
    times.append(frame.time)
    found += finder.process_frame(code_of(number, rate), frame.pixels[..., ::-1])
  if len(times) < 2:
    return record.drop('no moving picture', frames=len(times))
  found += finder.post_process(code_of(len(times) - 1, rate))
  cuts = sorted({times[code.frame_num] for code in found})
  length = times[-1] + (times[-1] - times[0]) / (len(times) - 1)
  return record.having(cuts=cuts, length=length).noting(cuts=len(cuts))


def clips(record: Record, *, seconds: float = 5.0, shortest: float = 1.0, across: bool = False
          ) -> Iterator[Record | Dropped]:
  """Clips of each scene; with ``across`` also those of the whole video that hold a cut.

  The latter disregard cuts (L013): the scenes of one video, one behind another, are clipped again,
  and what lies across a cut is a cross-transition clip.

  Args:
    record: with ``cuts`` and ``length``. Clips get ``start`` and ``end``, seconds, and ``kind``.
    seconds: of a clip, at the most.
    shortest: seconds of what may be left at the end of a scene.
    across: see above.
  """
  edges = [0.0, *record['cuts'], record['length']]
  for start, end in zip(edges, edges[1:]):
    for left, right in _windows(start, end, seconds):
      clip = _clip(record, left, right, CLIP)
      yield clip if right - left >= shortest else clip.drop('short', seconds=round(right - left, 3))
  if across:
    for left, right in _windows(0.0, record['length'], seconds):
      within = [cut for cut in record['cuts'] if left < cut < right]
      if within and right - left >= shortest:
        yield _clip(record, left, right, TRANSITION).noting(cut_at=round(within[0], 3))


def end_frames(record: Record, *, rate: float = 8.0, side: int = 256) -> Record:
  """Decodes the first and the last frame of a clip, and small frames between them.

  Args:
    record: with ``path``, ``start`` and ``end``. It gets ``first`` and ``last``, JPEG files,
      ``looks``, the same as uint8[2, h, w, 3], and for ``motion`` ``small``, uint8[T, h, w, 3],
      and ``times``, seconds.
    rate: small frames in a second, at the most.
    side: of small frames, pixels of the longer side.
  """
  found = videos.ends(record['path'], record['start'], record['end'], rate, side)
  return record.having(
      first=_jpeg(found.first.pixels), last=_jpeg(found.last.pixels),
      looks=np.stack([frame.pixels for frame in found.looks]),
      small=np.stack([frame.pixels for frame in found.small]),
      times=[frame.time for frame in found.small])


def unlike_ends(record: Record, *, least: float = 2.0) -> Record | Dropped:
  """Drops a pair whose two frames are nearly the same picture.

  Args:
    record: with ``looks``.
    least: mean absolute difference at 64 x 64, levels of 255.
  """
  first, last = (np.asarray(Image.fromarray(look).convert('L').resize(
      (64, 64), Image.Resampling.BOX), np.float32) for look in record['looks'])
  change = round(float(np.abs(first - last).mean()), 3)
  noted = record.noting(change=change)
  return noted if change >= least else noted.drop('first and last alike', change=change)


def unlike_clips(records: Iterable[Record], *, least: int = 6) -> Iterator[Record | Dropped]:
  """Of the clips of one video, drops those that show the same again: for ``Siblings``.

  Args:
    records: with ``looks``, which they lose, and ``kind``.
    least: bits of 64 in which the perceptual hashes of first and last differ, both together.
  """
  kept: dict[str, list[Any]] = {}
  for record in records:
    own = [image_hash(look) for look in record['looks']]
    others = kept.setdefault(record['kind'], [])
    if any(sum(map(images_apart, own, hashes)) < least for hashes in others):
      yield record.drop('near duplicate')
    else:
      others.append(own)
      yield record.without('looks')


def caption(record: Record, *, model: Model, prompt: str = TRANSITION_PROMPT, side: int = 768
            ) -> Record | Dropped:
  """Asks a model that sees images how the first frame becomes the last (L124).

  Args:
    record: with ``first`` and ``last``; it gets ``caption``.
    model: by ``Use``.
    prompt: what it is asked.
    side: pixels of the longer side that it sees, at the most.
  """
  reply, = model.ask([Request(prompt, (record['first'], record['last']), side=side)])
  words = ' '.join(reply.text.split())
  return record.having(caption=words) if words else record.drop('no caption', error=reply.error)


def frame_pair(record: Record) -> Record:
  """The sample: the first frame, the caption, and the last frame as target."""
  sample = Sample(record.id, (Part('source', image=record['first']),
                              Part('user', text=record['caption']),
                              Part('target', image=record['last'], loss=True)), task='edit')
  return record.having(sample=sample)


def _windows(start: float, end: float, seconds: float) -> Iterator[tuple[float, float]]:
  while start < end - 1e-6:
    yield start, min(start + seconds, end)
    start += seconds


def _clip(record: Record, start: float, end: float, kind: str) -> Record:
  return record.child(f'{kind}-{round(1000 * start):08d}', start=start, end=end, kind=kind).noting(
      kind=kind, start=round(start, 3), end=round(end, 3))


def _detector(name: str, threshold: float, shortest: int) -> Any:
  scenedetect = extra('scenedetect', 'scenedetect-headless')
  if name == 'adaptive':
    return scenedetect.AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=shortest)
  return scenedetect.ContentDetector(threshold=threshold, min_scene_len=shortest)


def _jpeg(pixels: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', quality=95, subsampling=0)
  return buffer.getvalue()
