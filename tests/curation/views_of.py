"""Cameras at known places, their files as COLMAP writes them, and a folder as MVImgNet's."""

import pathlib
import struct

import numpy as np
from scipy.spatial.transform import Rotation

from jaxgen.curation.cameras import Camera
from tests.curation import pools_of

UP = np.array([0.0, 1.0, 0.0])
NAMES = [f'{number:03d}.png' for number in range(1, 9)]


def looking(centre: np.ndarray, side: float, height: float, roll: float = 0.0,
            name: str = 'a') -> Camera:
  """A camera that looks along z, ``side`` degrees to the right of it and ``height`` above it, and
  is rolled clockwise; the world's x is to its right, y is up."""
  right, up, ahead = np.eye(3)
  yaw, pitch, turn = np.radians([side, height, roll])
  z = np.cos(pitch) * (np.cos(yaw) * ahead + np.sin(yaw) * right) + np.sin(pitch) * up
  x = np.cos(yaw) * right - np.sin(yaw) * ahead
  # The world here is left-handed (x right, y up, z ahead): mirrored into a right-handed one.
  y = -(np.cos(pitch) * up - np.sin(pitch) * (np.cos(yaw) * ahead + np.sin(yaw) * right))
  x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
  mirror = np.array([-1.0, 1.0, 1.0])
  return Camera(name, np.stack([x, y, z]) * mirror, centre * mirror)


def on_sphere(side: float, height: float, radius: float, roll: float = 0.0, name: str = 'a'
              ) -> Camera:
  """A camera that looks at the origin, ``side`` degrees to the right around it."""
  yaw, pitch = np.radians([side, height])
  centre = radius * np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch),
                              -np.cos(pitch) * np.cos(yaw)])
  return looking(centre, -side, -height, roll, name)


def moved(camera: Camera, seed: int) -> Camera:
  """The same camera in a world that is turned, shifted and three times as large."""
  rotation = Rotation.random(random_state=seed).as_matrix()
  return Camera(camera.name, camera.axes @ rotation.T, 3 * rotation @ camera.centre + [5, -2, 1])


def write_binary(folder: pathlib.Path, cameras: list[Camera]) -> None:
  """``images.bin`` without keypoints."""
  lines = [struct.pack('<Q', len(cameras))]
  for number, (camera, values) in enumerate(zip(cameras, map(_values, cameras)), 1):
    lines.append(struct.pack('<I7dI', number, *values, 1) + camera.name.encode() + b'\0'
                 + struct.pack('<Q', 0))
  (folder / 'images.bin').write_bytes(b''.join(lines))


def write_text(folder: pathlib.Path, cameras: list[Camera]) -> None:
  """``images.txt``: the second line of an image has its keypoints, and may be empty."""
  lines = ['# Image list with two lines of data per image:']
  for number, camera in enumerate(cameras, 1):
    values = ' '.join(map(str, _values(camera)))
    lines += [f'{number} {values} 1 {camera.name}', '1.5 2.5 -1' if number == 1 else '']
  (folder / 'images.txt').write_text('\n'.join(lines) + '\n')


def mvimgnet(folder: pathlib.Path) -> str:
  """A mug that is gone round in steps of 12 degrees, and three objects that give no sample."""
  (folder / 'mvimgnet_category.txt').write_text('7,coffee_mug\n8,stove\n')
  for name, step, count in (('7/a1', 12, 8), ('7/short', 12, 1), ('12/still', 1, 6)):
    images, sparse = folder / name / 'images', folder / name / 'sparse/0'
    images.mkdir(parents=True)
    sparse.mkdir(parents=True)
    write_binary(sparse, [on_sphere(step * number, 30, 2.0, name=NAMES[number])
                          for number in range(count)])
    for number in range(count - (name == '7/a1')):
      (images / NAMES[number]).write_bytes(pools_of.picture(pools_of.signs(number), 64))
  (folder / '12/above').symlink_to(folder)
  (folder / '12/broken/sparse/0').mkdir(parents=True)
  (folder / '12/broken/sparse/0/images.bin').write_bytes(b'no cameras')
  return str(folder)


def _values(camera: Camera) -> list[float]:
  x, y, z, w = Rotation.from_matrix(camera.axes).as_quat()
  return [w, x, y, z, *(-camera.axes @ camera.centre)]
