"""An exact scorer for captions: detects the objects of an image and compares them with the words.

Objects are detected by colour: every pixel is assigned to the nearest colour of palette and
background, and the connected components of a colour are the objects. A component, edges included,
is classified as the shape that overlaps it best when drawn with the same area and centroid. The
verdicts follow GenEval's rules (L148). All requested objects must be there, in exactly the
requested number for the counting task, and with the colours that the caption names. Positions
compare the offset of the centres beyond a margin of a tenth of both sizes.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from jaxgen.data.shapes import drawing
from jaxgen.data.shapes import geneval

MIN_AREA = 0.04  # share of the image; the smallest drawn shape covers 0.09
MIN_OVERLAP = 0.6  # intersection over union with the best outline
POSITION_MARGIN = 0.1


@dataclasses.dataclass(frozen=True)
class Detection:
  """One object detected in an image; ``box`` is (left, top, right, bottom) in pixels."""

  shape: str
  color: str
  box: tuple[int, int, int, int]

  @property
  def centre(self) -> np.ndarray:
    return np.array([self.box[0] + self.box[2], self.box[1] + self.box[3]]) / 2

  @property
  def extent(self) -> np.ndarray:
    return np.array([self.box[2] - self.box[0], self.box[3] - self.box[1]])


def detect(image: np.ndarray) -> list[Detection]:
  """All objects of a uint8[H, W, 3] image, largest first."""
  names = list(drawing.COLORS)
  palette = np.array([drawing.BACKGROUND, *drawing.COLORS.values()], np.float32)
  distance = np.linalg.norm(image[:, :, None].astype(np.float32) - palette, axis=-1)
  nearest = distance.argmin(-1)
  found = []
  for index, color in enumerate(names, start=1):
    pieces, count = ndimage.label(nearest == index)
    alpha = _opacity(image, color)
    for number, window in enumerate(ndimage.find_objects(pieces, count), start=1):
      mask = pieces == number
      if mask.sum() < MIN_AREA * mask.size:
        continue
      shape, overlap = _classify(np.where(ndimage.binary_dilation(mask), alpha, 0.0))
      if overlap >= MIN_OVERLAP:
        rows, columns = window
        box = (columns.start, rows.start, columns.stop, rows.stop)
        found.append((mask.sum(), Detection(shape, color, box)))
  return [detection for _, detection in sorted(found, key=lambda item: -item[0])]


def score(image: np.ndarray, request: geneval.Request) -> bool:
  """True if the uint8[H, W, 3] image shows what the request asks for."""
  objects = detect(image)
  if request.task == 'counting':
    shape, _ = request.wanted[0]
    return sum(item.shape == shape for item in objects) == len(request.wanted)
  chosen = [[item for item in objects if item.shape == shape and color in (None, item.color)]
            for shape, color in request.wanted]
  if not all(chosen):
    return False
  if request.relation is None:
    return True
  return _lies(chosen[0][0], chosen[1][0], request.relation)


def _opacity(image: np.ndarray, color: str) -> np.ndarray:
  """Opacity of ``color`` over the background at each pixel; f32[H, W] in [0, 1]."""
  ground = np.array(drawing.BACKGROUND, np.float32)
  way = np.array(drawing.COLORS[color], np.float32) - ground
  return np.clip((image - ground) @ way / (way @ way), 0, 1)


def _classify(alpha: np.ndarray) -> tuple[str, float]:
  """The best shape for a component with opacity f32[H, W], and its intersection over union."""
  area = alpha.sum()
  x = (alpha.sum(0) @ (np.arange(alpha.shape[1]) + 0.5)) / area
  y = (alpha.sum(1) @ (np.arange(alpha.shape[0]) + 0.5)) / area
  overlaps = {}
  for shape in drawing.SHAPES:
    radius = np.sqrt(area / drawing.UNIT_AREA[shape])
    top = y - radius / 3 if shape == 'triangle' else y  # its centroid lies below its centre
    dx = (np.arange(alpha.shape[1]) + 0.5 - x)[None, :]
    dy = (np.arange(alpha.shape[0]) + 0.5 - top)[:, None]
    drawn = drawing.coverage(shape, dx, dy, radius)
    overlaps[shape] = np.minimum(alpha, drawn).sum() / np.maximum(alpha, drawn).sum()
  best = max(overlaps, key=overlaps.get)
  return best, float(overlaps[best])


def _lies(first: Detection, second: Detection, relation: str) -> bool:
  offset = first.centre - second.centre
  beyond = np.abs(offset) - POSITION_MARGIN * (first.extent + second.extent)
  direction = np.sign(offset) * np.maximum(beyond, 0)
  length = np.linalg.norm(direction)
  return bool(length > 0 and direction @ np.array(geneval.RELATIONS[relation]) > 0.5 * length)
