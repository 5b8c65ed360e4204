"""Cameras of a scene as COLMAP stores them, and how one moved to the next, in words (L018).

A camera looks along its z axis, x to the right and y down. COLMAP's scenes have neither a unit of
length nor an upright axis: lengths are told in parts of the distance to what all cameras look at,
and the upright axis is the one to which all x axes are perpendicular.
"""

import dataclasses
import struct
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
from etils import epath

from jaxgen.core.errors import record_error

FEWEST = 5.0  # degrees that are told; angles are told in multiples of them
NEARER, FARTHER = 0.87, 1.15  # distances to the focus, as parts of the one before, that are told
MOVED = 0.1  # parts of the distance to the focus that are told
LOOKS = 25.0  # degrees between the axis of a camera and the focus that it looks at, at the most
# Of axes that meet in a point: the least spread (an eigenvalue), and how far they may pass it by.
_SPREAD, _MISS = 0.003, 0.25
_IMAGE = struct.Struct('<I7dI')  # id, quaternion, translation, camera
_POINT = 24  # bytes of a keypoint


@dataclasses.dataclass(frozen=True)
class Camera:
  """One view.

  Attributes:
    name: of its image.
    axes: f64[3, 3], rows are x, y and z of the camera in the scene: the rotation from scene to
      camera.
    centre: f64[3] in the scene.
  """

  name: str
  axes: np.ndarray
  centre: np.ndarray


@dataclasses.dataclass(frozen=True)
class World:
  """What all cameras of a scene have in common.

  Attributes:
    up: f64[3] of length 1.
    focus: f64[3] that they look at; None where their axes do not meet.
    scale: mean distance to the focus, or else the largest one between two cameras.
  """

  up: np.ndarray
  focus: np.ndarray | None
  scale: float


def read_cameras(folder: epath.Path) -> list[Camera]:
  """The cameras in ``images.bin`` or ``images.txt``, by the names of their images.

  Raises:
    RecordError: neither is there, or it is damaged.
  """
  for name, read in (('images.bin', _binary), ('images.txt', _text)):
    file = folder / name
    if file.exists():
      try:
        found = [_camera(name, np.array(values)) for name, values in read(file.read_bytes())]
      except (struct.error, ValueError, IndexError) as error:
        raise record_error(str(file), None, f'is no file of COLMAP ({error})') from None
      return sorted(found, key=lambda camera: camera.name)
  raise record_error(str(folder), None, 'has neither images.bin nor images.txt, as COLMAP writes')


def world_of(cameras: Sequence[Camera]) -> World:
  """See ``World``.

  Args:
    cameras: two or more.
  """
  x, y, z = np.moveaxis(np.stack([camera.axes for camera in cameras]), 1, 0)  # f64[n, 3] each
  centres = np.stack([camera.centre for camera in cameras])
  # Perpendicular to all x axes; where these are parallel, along the y axes.
  _, vectors = np.linalg.eigh(np.einsum('ni,nj->ij', x, x) - 0.005 * np.einsum('ni,nj->ij', y, y))
  up = vectors[:, 0] * np.copysign(1.0, -vectors[:, 0] @ y.sum(0))
  focus = _focus(centres, z)
  reach = centres[:, None] - centres if focus is None else centres - focus
  lengths = np.linalg.norm(reach, axis=-1)
  return World(up, focus, float(lengths.max() if focus is None else lengths.mean()))


def between(one: Camera, other: Camera) -> float:
  """Degrees between the directions of two cameras."""
  return float(np.degrees(np.arccos(np.clip(one.axes[2] @ other.axes[2], -1, 1))))


def motion(one: Camera, other: Camera, world: World, what: str = 'object') -> str:
  """How the camera moves from one view to another, as who looks through it would say it.

  Args:
    one, other: of one scene.
    world: of this scene.
    what: the cameras look at.

  Returns:
    A sentence; '' where it hardly moves.
  """
  around = world.focus is not None and all(_looks_at(each, world.focus) for each in (one, other))
  told = (_orbit(one, other, world, what) if around else
          [*_shift(one, other, world), *_turn(one, other, world)])
  roll = _angle(_roll(other, world.up) - _roll(one, world.up))
  told += _told(roll, 'rolls clockwise', 'rolls counterclockwise')
  if not told:
    return ''
  *first, last = told
  return f'The camera {", ".join(first)} and {last}.' if first else f'The camera {last}.'


def _orbit(one: Camera, other: Camera, world: World, what: str) -> list[str]:
  """On the sphere around the focus: along it, up it, and nearer."""
  (side, height, radius), (side_2, height_2, radius_2) = (
      _spherical(each.centre - world.focus, world.up) for each in (one, other))
  told = _told(_angle(side_2 - side), f'moves around the {what} to the right',
               f'moves around the {what} to the left')
  told += _told(height_2 - height, 'rises', 'sinks')
  if radius_2 < NEARER * radius:
    told.append('comes closer')
  elif radius_2 > FARTHER * radius:
    told.append('moves away')
  return told


def _shift(one: Camera, other: Camera, world: World) -> list[str]:
  """To the sides, up and forward, as the first camera sees it."""
  x, y, z = one.axes @ (other.centre - one.centre)
  least = MOVED * world.scale
  return [f'moves {way if value > 0 else back}' for value, way, back in (
      (x, 'to the right', 'to the left'), (-y, 'up', 'down'), (z, 'forward', 'backward'))
          if abs(value) > least]


def _turn(one: Camera, other: Camera, world: World) -> list[str]:
  """Around the upright axis, and up or down."""
  (side, height, _), (side_2, height_2, _) = (
      _spherical(each.axes[2], world.up) for each in (one, other))
  return [*_told(_angle(side_2 - side), 'turns to the left', 'turns to the right'),
          *_told(height_2 - height, 'tilts up', 'tilts down')]


def _told(degrees: float, way: str, back: str) -> list[str]:
  """An angle in words, rounded; [] where it is too small."""
  rounded = round(abs(degrees) / FEWEST) * round(FEWEST)
  return [f'{way if degrees > 0 else back} by about {rounded} degrees'] if rounded else []


def _spherical(vector: np.ndarray, up: np.ndarray) -> tuple[float, float, float]:
  """Degrees around ``up``, counterclockwise from above, degrees above the horizon, and length.

  The direction of 0 degrees is arbitrary and the same for all vectors.
  """
  least = np.eye(3)[np.argmin(np.abs(up))]
  east = np.cross(least, up) / np.linalg.norm(np.cross(least, up))
  length = float(np.linalg.norm(vector))
  side = np.degrees(np.arctan2(vector @ np.cross(up, east), vector @ east))
  return float(side), float(np.degrees(np.arcsin(np.clip(vector @ up / length, -1, 1)))), length


def _roll(camera: Camera, up: np.ndarray) -> float:
  """Degrees by which a camera is turned clockwise, seen from behind it."""
  x, y, _ = camera.axes @ up
  return float(np.degrees(np.arctan2(-x, -y)))


def _looks_at(camera: Camera, focus: np.ndarray) -> bool:
  ahead = focus - camera.centre
  return bool(camera.axes[2] @ ahead > np.cos(np.radians(LOOKS)) * np.linalg.norm(ahead))


def _focus(centres: np.ndarray, axes: np.ndarray) -> np.ndarray | None:
  """The point that is nearest to all axes, f64[n, 3] from f64[n, 3]; None where they part."""
  across = np.eye(3) - np.einsum('ni,nj->nij', axes, axes)  # what of a vector is beside each axis
  if np.linalg.eigvalsh(across.mean(0))[0] < _SPREAD:
    return None
  point = np.linalg.solve(across.sum(0), np.einsum('nij,nj->i', across, centres))
  to_point = point - centres
  missed = np.linalg.norm(np.einsum('nij,nj->ni', across, to_point), axis=-1)
  ahead = np.einsum('ni,ni->n', axes, to_point)
  return point if np.median(missed) < _MISS * np.median(ahead) else None


def _angle(degrees: float) -> float:
  """Between -180 and 180."""
  return (degrees + 180) % 360 - 180


def _camera(name: str, values: np.ndarray) -> Camera:
  """From a quaternion (w, x, y, z) and a translation, f64[7], both from scene to camera."""
  length = np.linalg.norm(values[:4])
  if not np.isfinite(values).all() or length < 1e-6:
    raise ValueError(f'no rotation of {name}')
  w, x, y, z = values[:4] / length
  axes = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                   [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                   [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]])
  return Camera(name, axes, -axes.T @ values[4:])


def _binary(data: bytes) -> Iterator[tuple[str, tuple[float, ...]]]:
  """Names of images, and quaternion and translation of each."""
  count, place = struct.unpack_from('<Q', data)[0], 8
  for _ in range(count):
    _, *values, _ = _IMAGE.unpack_from(data, place)
    place += _IMAGE.size
    end = data.index(b'\0', place)
    points, = struct.unpack_from('<Q', data, end + 1)
    yield data[place:end].decode(), tuple(values)
    place = end + 9 + _POINT * points


def _text(data: bytes) -> Iterator[tuple[str, tuple[float, ...]]]:
  """As ``_binary``, of the text form: a line of each image, and one of its keypoints."""
  lines = [line for line in data.decode().splitlines() if not line.startswith('#')]
  for line in lines[::2]:
    if line.strip():
      _, *values, _, name = line.split(maxsplit=9)
      yield name, tuple(map(float, values))
