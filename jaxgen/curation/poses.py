"""Maps of poses as OpenPose draws them, of keypoints that a YOLOv8 detector finds (L015)."""

import numpy as np

from jaxgen.curation.extras import opencv
from jaxgen.curation.filters import boxes
from jaxgen.curation.models import Model
from jaxgen.data.decode import decode

POINTS = 17  # of COCO, as the detector gives them
# Of OpenPose's 18 points the places in COCO; the neck, -1, is between the shoulders.
_ORDER = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_SHOULDERS = (5, 6)
# Pairs of OpenPose's points, in the order of their colours.
LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
         (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))
COLORS = ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
          (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
          (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85))
_WIDTH = 128  # of the longer side in widths of a limb


def pose_map(image: bytes, model: Model, *, side: int = 640, least: float = 0.5) -> np.ndarray:
  """The skeletons of all people in an image, on black.

  Args:
    image: file.
    model: an ONNX file of YOLOv8 for poses as ultralytics exports it: float32[4 + 1 + 51, N],
      behind each box x, y and visibility of 17 points.
    side: pixels of the model's square input.
    least: score of a person, and visibility of a point.

  Returns:
    uint8[H, W, 3]; all 0 where nobody is found.
  """
  height, width = decode(image).shape[:2]
  drawn = np.zeros((height, width, 3), np.uint8)
  for found in boxes(model, image, least, 0.6):
    points = found[5:5 + 3 * POINTS].reshape(POINTS, 3)
    points = points * np.array([width / side, height / side, 1.0])
    drawn = np.maximum(drawn, skeleton(points, (height, width), least))
  return drawn


def skeleton(points: np.ndarray, size: tuple[int, int], least: float) -> np.ndarray:
  """One person.

  Args:
    points: f[17, 3] of COCO: x, y in pixels, visibility.
    size: (height, width).
    least: visibility of what is drawn.

  Returns:
    uint8[H, W, 3] on black.
  """
  cv2 = opencv()
  left, right = points[list(_SHOULDERS)]
  neck = np.array([*(left[:2] + right[:2]) / 2, min(left[2], right[2])])
  body = np.stack([neck if place < 0 else points[place] for place in _ORDER])
  there = body[:, 2] >= least
  at = [tuple(point) for point in body[:, :2].round().astype(int).tolist()]
  thick = max(round(max(size) / _WIDTH), 1)
  drawn = np.zeros((*size, 3), np.uint8)
  for (start, end), color in zip(LIMBS, COLORS):
    if there[start] and there[end]:
      cv2.line(drawn, at[start], at[end], tuple(round(0.6 * value) for value in color), 2 * thick)
  for place in np.flatnonzero(there):
    cv2.circle(drawn, at[place], thick, COLORS[place], -1)
  return drawn
