"""From shapes to pixels: palette, outlines, patterns and styles, drawn with smooth edges.

Every outline is a signed distance (negative inside, in pixels), and a pixel is covered by
``0.5 - distance``, held to [0, 1].
"""

import functools

import numpy as np

BACKGROUND = (128, 128, 128)
COLORS = {
    'red': (220, 40, 40),
    'orange': (250, 140, 20),
    'yellow': (240, 230, 50),
    'green': (30, 160, 60),
    'blue': (40, 70, 230),
    'purple': (170, 50, 200),
    'black': (10, 10, 10),
    'white': (250, 250, 250),
}
GROUNDS = {
    'grey': BACKGROUND,
    'sand': (205, 180, 140),
    'mint': (140, 205, 175),
    'pink': (235, 170, 195),
    'sky': (140, 185, 230),
}
SHAPES = ('circle', 'square', 'triangle', 'cross')
UNIT_AREA = {'circle': np.pi, 'square': 3.24, 'triangle': 2.0, 'cross': 2.2576}  # at radius 1
PATTERNS = ('plain', 'stripes', 'dots', 'rings', 'checks')
STYLES = ('filled', 'outline', 'hatched', 'inverted')
SIZES = {'large': 0.42, 'small': 0.27}  # radius of an object in sides of its cell
# Thin enough for the arms of a cross, thick enough for cells of 8 pixels.
OUTLINE, HATCH = 0.24, 0.9  # width of an outline, period of hatching, in radii
_DOTS = ((0, 0), (0.62, 0), (-0.62, 0), (0, 0.62), (0, -0.62))  # in radii: on every shape's arms
_DOT = 0.26


def coverage(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
  """Share of each pixel that the shape covers; f32 in [0, 1].

  Args:
    shape: one of ``SHAPES``.
    dx, dy: pixel centres relative to the shape's centre, broadcastable, in pixels.
    radius: half the width of the shape in pixels.
  """
  return _cover(distance(shape, dx, dy, radius))


def distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
  """Signed distance of each pixel centre to the outline in pixels; see ``coverage``."""
  if shape == 'circle':
    return np.hypot(dx, dy) - radius
  if shape == 'square':
    return np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * radius
  if shape == 'triangle':  # apex up, as wide as it is high
    side = (2 * np.abs(dx) - (dy + radius)) / np.sqrt(5)
    return np.maximum(side, dy - radius)
  across, along = np.minimum(np.abs(dx), np.abs(dy)), np.maximum(np.abs(dx), np.abs(dy))
  return np.maximum(across - 0.34 * radius, along - radius)


@functools.lru_cache(maxsize=4096)
def masks(shape: str, size: str, pattern: str, style: str, side: int) -> np.ndarray:
  """Share of each pixel of a cell that has the object's first and second colour.

  Args:
    shape, size, pattern, style: keys of the tables above; only ``filled`` objects have patterns.
    side: of the cell in pixels.

  Returns:
    f32[2, side, side], not to be written to. The rest of a pixel is ground.
  """
  radius = SIZES[size] * side
  centres = np.arange(side, dtype=np.float32) + 0.5 - side / 2
  dx, dy = centres[None, :], centres[:, None]
  edge = distance(shape, dx, dy, radius)
  covered = _cover(edge)
  if style == 'outline':
    covered = covered - _cover(edge + OUTLINE * radius)
  elif style == 'hatched':
    covered = covered * _cover(_bands((dx + dy) / radius, HATCH) * radius / np.sqrt(2))
  second = covered * _second_share(pattern, dx / radius, dy / radius, radius)
  result = np.stack([covered - second, second])
  result.setflags(write=False)
  return result


def _second_share(pattern: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
  """Share of the second colour at (u, v), in radii from the object's centre."""
  if pattern == 'plain':
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
  if pattern == 'stripes':
    away = np.broadcast_to(_bands(v - 0.25, 1.0), np.broadcast_shapes(u.shape, v.shape))
  elif pattern == 'checks':
    away = -np.sign(u * v) * np.minimum(np.abs(u), np.abs(v))
  elif pattern == 'rings':
    away = np.abs(np.hypot(u, v) - 0.55) - 0.2
  else:
    away = np.min([np.hypot(u - x, v - y) for x, y in _DOTS], axis=0) - _DOT
  return _cover(away * radius)


def _bands(place: np.ndarray, period: float) -> np.ndarray:
  """Signed distance to bands of half a period around every multiple of it, in its units."""
  return np.abs((place / period + 0.5) % 1.0 - 0.5) * period - period / 4


def _cover(away: np.ndarray) -> np.ndarray:
  return np.clip(0.5 - away, 0.0, 1.0).astype(np.float32)
