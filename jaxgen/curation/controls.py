"""Stages that join a control map to the picture that it is made of (L015).

iMontage (section 3.2.2) adds maps of poses, depth and line art to Echo-4o's references. Edges and
lines are drawn by OpenCV, depth and poses by plug-ins. Lines are white on black, what is near is
white.
"""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.core.image_files import to_png
from jaxgen.curation.extras import opencv
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.poses import pose_map
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode

SIGNALS = ('canny', 'lineart', 'depth', 'openpose')
EMPTY = 0.002  # share of pixels that are not black, below which a map says nothing
_TOP = 98  # percentile of a response that becomes white


def mapped(record: Record, *, signals: Sequence[str], lines: Model | None = None,
           depth: Model | None = None, pose: Model | None = None, seed: int = 0
           ) -> Record | Dropped:
  """Puts a control map of the target before the given images.

  The signals are tried in an order that the id draws: a picture without people has no pose.

  Args:
    record: with ``given`` and ``targets``; it gets ``signal``, and the instruction is the wording's
      own.
    signals: of ``SIGNALS``.
    lines: an ONNX file of learned line art, in place of OpenCV's: its first output is
      float32[..., h, w], larger where a line is.
    depth: one such as Depth-Anything's, larger where it is nearer.
    pose: as for ``poses.pose_map``.
    seed: of the draw.

  Raises:
    UserError: an unknown signal, or one whose model is not given.
  """
  image = record['targets'][0]
  makers: dict[str, Callable[[], np.ndarray]] = dict(
      canny=lambda: edges(decode(image)),
      lineart=lambda: response_map(image, lines) if lines else line_art(decode(image)))
  if depth:
    makers['depth'] = lambda: response_map(image, depth)
  if pose:
    makers['openpose'] = lambda: pose_map(image, pose)
  if unknown := sorted(set(signals) - makers.keys()):
    raise user_error('RECIPE', unknown, f'mapped draws {", ".join(SIGNALS)}, depth and openpose by '
                     'models of these parameters')
  for place in record.rng(seed).permutation(len(signals)):
    drawn = makers[signals[place]]()
    if (drawn > 0).any(-1).mean() >= EMPTY:
      return record.having(given=[to_png(drawn), *record['given']], signal=signals[place],
                           instruction=['']).noting(signal=signals[place])
  return record.drop('empty map', signals=list(signals))


def edges(image: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
  """Canny's edges.

  Args:
    image: uint8[H, W, 3].
    low, high: thresholds of the gradient.

  Returns:
    uint8[H, W, 3], 0 or 255.
  """
  cv2 = opencv()
  found = cv2.Canny(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), low, high)
  return np.repeat(found[..., None], 3, -1)


def line_art(image: np.ndarray, width: float = 1 / 512) -> np.ndarray:
  """Dark lines and the dark sides of edges, by a difference of Gaussians.

  Args:
    image: uint8[H, W, 3].
    width: standard deviation of the narrow Gaussian as a part of the longer side, at least a pixel;
      the wide one has 1.6 times as much, as in Marr and Hildreth's approximation of a Laplacian.

  Returns:
    uint8[H, W, 3], grey: white where a line is strongest.
  """
  cv2 = opencv()
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
  sigma = max(width * max(grey.shape), 1.0)
  narrow, wide = (cv2.GaussianBlur(grey, (0, 0), each) for each in (sigma, 1.6 * sigma))
  return _grey(np.maximum(wide - narrow - 1.0, 0))  # one grey level is noise


def response_map(image: bytes, model: Model) -> np.ndarray:
  """uint8[H, W, 3], white where a model responds most; all 0 where it does so nowhere more."""
  height, width = decode(image).shape[:2]
  reply, = model.ask([Request(images=(image,))])
  found = next(iter(reply.arrays.values()), None)
  if found is None or found.squeeze().ndim != 2:
    raise user_error('RECIPE', 'mapped', 'the model gives no map, float32[..., h, w]')
  response = opencv().resize(found.squeeze().astype(np.float32), (width, height))
  return _grey(response - response.min(), top=100)


def _grey(response: np.ndarray, top: float = _TOP) -> np.ndarray:
  """f32[H, W] of 0 and more to uint8[H, W, 3]; the percentile ``top`` of what is not 0 is white."""
  there = response[response > 0]
  scaled = response / np.percentile(there, top) if there.size else response
  return np.repeat((255 * scaled.clip(0, 1)).round().astype(np.uint8)[..., None], 3, -1)
