"""Camera motion in words, of known rotations and shifts; COLMAP's files; views in order."""

import base64
import struct

import numpy as np
import pytest

from jaxgen.core.errors import RecordError
from jaxgen.curation import cameras
from jaxgen.curation import views
from jaxgen.curation.cameras import Camera
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from tests.curation import views_of
from tests.curation.views_of import looking
from tests.curation.views_of import on_sphere

# An image with two keypoints, then one with none, as pycolmap 4.2.1 writes them: quaternions
# (w, x, y, z) = (0.5, 0.5, -0.5, 0.5) and (1, 0, 0, 0), translations (1, 2, 3) and (0, 0, 4).
PYCOLMAP = (
    'AgAAAAAAAAABAAAAAAAAAAAA4D8AAAAAAADgPwAAAAAAAOC/AAAAAAAA4D8AAAAAAADwPwAAAAAAAABAAAAAAAAA'
    'CEABAAAAMDAxLmpwZwACAAAAAAAAAAAAAAAAAPg/AAAAAAAABED//////////wAAAAAAAAhAAAAAAAAAEED/////'
    '/////wIAAAAAAAAAAADwPwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQQAEA'
    'AAAwMDIuanBnAAAAAAAAAAAA')


def told(poses, one=0, other=1):
  return cameras.motion(poses[one], poses[other], cameras.world_of(poses), 'mug')


RING = [on_sphere(side, 25, 2) for side in (-50, -20, 15, 60)]


@pytest.mark.parametrize('camera, words', [
    (on_sphere(0, 25, 2), ''),
    (on_sphere(30, 25, 2), 'moves around the mug to the right by about 30 degrees'),
    (on_sphere(-45, 25, 2), 'moves around the mug to the left by about 45 degrees'),
    (on_sphere(0, 45, 2), 'rises by about 20 degrees'),
    (on_sphere(0, 10, 2), 'sinks by about 15 degrees'),
    (on_sphere(0, 25, 1.4), 'comes closer'), (on_sphere(0, 25, 3), 'moves away'),
    (on_sphere(0, 25, 1.9), ''),
    (on_sphere(0, 25, 2, roll=20), 'rolls clockwise by about 20 degrees'),
    (on_sphere(0, 25, 2, roll=-10), 'rolls counterclockwise by about 10 degrees'),
    (on_sphere(62, 40, 1.2), 'moves around the mug to the right by about 60 degrees, rises by '
                             'about 15 degrees and comes closer')])
@pytest.mark.parametrize('turned', [False, True])
def test_motion_around_an_object(camera, words, turned):
  """The world of COLMAP has any orientation, place and scale."""
  poses = [on_sphere(0, 25, 2), camera, *RING]
  if turned:
    poses = [views_of.moved(pose, seed=3) for pose in poses]
  said = told(poses)
  assert said == (f'The camera {words}.' if words else '')


FORWARD = np.array([0.0, 0.0, 1.0])


@pytest.mark.parametrize('centre, side, height, words', [
    ((0.5, 0, 0), 0, 0, 'moves to the right'), ((-0.5, 0, 0), 0, 0, 'moves to the left'),
    ((0, 0.5, 0), 0, 0, 'moves up'), ((0, -0.5, 0), 0, 0, 'moves down'),
    ((0, 0, 0.5), 0, 0, 'moves forward'), ((0, 0, -0.5), 0, 0, 'moves backward'),
    ((0, 0, 0), 30, 0, 'turns to the right by about 30 degrees'),
    ((0, 0, 0), -30, 0, 'turns to the left by about 30 degrees'),
    ((0, 0, 0), 0, 20, 'tilts up by about 20 degrees'),
    ((0, 0, 0), 0, -20, 'tilts down by about 20 degrees'),
    ((0.4, 0, 0.4), 15, 0, 'moves to the right, moves forward and turns to the right by about 15 '
                           'degrees'),
    ((0, 0, 0), 2, 0, '')])
def test_motion_without_a_common_focus(centre, side, height, words):
  """A camera at the origin that looks ahead, and others that look away from each other."""
  poses = [looking(np.zeros(3), 0, 0), looking(np.array(centre, float), side, height),
           looking(np.array([-1.0, 0, 0]), -60, 0), looking(np.array([1.0, 0, 0]), 60, 0)]
  assert cameras.world_of(poses).focus is None
  assert told(poses) == (f'The camera {words}.' if words else '')


def test_files_of_colmap_are_read(tmp_path):
  data = base64.b64decode(PYCOLMAP)
  (tmp_path / 'images.bin').write_bytes(data)
  first, second = cameras.read_cameras(tmp_path)
  assert (first.name, second.name) == ('001.jpg', '002.jpg')
  np.testing.assert_allclose(first.axes, [[0, -1, 0], [0, 0, -1], [1, 0, 0]], atol=1e-12)
  np.testing.assert_allclose(first.axes @ first.centre, [-1, -2, -3])
  np.testing.assert_allclose(second.centre, [0, 0, -4])
  (tmp_path / 'images.bin').unlink()
  views_of.write_text(tmp_path, [first, second])
  for ours, again in zip((first, second), cameras.read_cameras(tmp_path)):
    assert again.name == ours.name
    np.testing.assert_allclose(again.axes, ours.axes, atol=1e-6)
    np.testing.assert_allclose(again.centre, ours.centre, atol=1e-6)


@pytest.mark.parametrize('damage', [
    lambda data: data[:-3], lambda data: data[:5], lambda data: struct.pack('<Q', 3) + data[8:],
    lambda data: data[:12] + bytes(32) + data[44:]])
def test_a_damaged_file_is_named(tmp_path, damage):
  (tmp_path / 'images.bin').write_bytes(damage(base64.b64decode(PYCOLMAP)))
  with pytest.raises(RecordError, match='is no file of COLMAP'):
    cameras.read_cameras(tmp_path)


def test_no_file_at_all_is_named(tmp_path):
  with pytest.raises(RecordError, match='neither images.bin nor images.txt'):
    cameras.read_cameras(tmp_path)


@pytest.fixture(scope='module')
def objects(tmp_path_factory):
  return views.read_objects(views_of.mvimgnet(tmp_path_factory.mktemp('mvimgnet')))


def test_objects_are_folders_with_cameras(objects):
  """A link that leads back to the top is not followed."""
  assert [record.id for record in objects] == ['12/broken', '12/still', '7/a1', '7/short']
  assert [record['object'] for record in objects] == ['object'] * 2 + ['coffee mug'] * 2


def test_views_are_in_order_and_told_one_after_another(objects):
  """In the folder the camera goes round by 12 degrees from frame to frame, always to the right."""
  counts = set()
  for seed in range(20):
    made = views.chosen(objects[2], least=1, most=4, degrees=10.0, seed=seed)
    names = made.lineage.notes['views']
    assert names == sorted(names) and len(names) == len(set(names)) == len(made['targets']) + 1
    places = [views_of.NAMES.index(name) for name in names]
    assert made['instruction'] == [' '.join(
        f'{number}. The camera moves around the coffee mug to the right by about '
        f'{round(12 * (after - before) / 5) * 5} degrees.'
        for number, (before, after) in enumerate(zip(places, places[1:]), 1))]
    counts.add(len(made['targets']))
  assert counts == {1, 2, 3, 4}


def test_few_and_still_views_are_dropped(objects):
  assert views.chosen(objects[1]).reason == 'still camera'
  assert views.chosen(objects[3]).reason == 'few views'
  with pytest.raises(RecordError):
    views.chosen(objects[0])


def test_frames_without_an_image_are_passed_over(objects):
  """COLMAP's cameras name more images than there are: of eight the last one is missing."""
  made = views.chosen(objects[2], least=6, most=8)
  assert made.lineage.notes['views'] == views_of.NAMES[:-1]


def test_the_centre_is_where_the_camera_stands():
  camera = Camera('a', np.eye(3), np.zeros(3))
  assert cameras.between(camera, looking(np.ones(3), 90, 0)) == pytest.approx(90)
  record = Record('a', dict(folder='/nowhere', object='mug'), Lineage('a'))
  with pytest.raises(RecordError, match='neither'):
    views.chosen(record)
