"""Videos: frames as they are shown, cuts to the frame, pairs by their motion and across cuts."""

import json
import pathlib

import numpy as np
import onnx
from onnx import helper
import pytest

from jaxgen.curation import clips
from jaxgen.curation import motion
from jaxgen.curation import videos
from jaxgen.curation.models import open_model
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.decode import DecodeError
from tests.curation import videos_of
from tests.curation.videos_of import RATE
from tests.curation.videos_of import Scene

PHOTOS = pathlib.Path(__file__).parents[3] / 'shared/data/photos'
PANS = (16, 60, 0, 80)  # pixels per second of the four scenes
CUTS = (2.0, 3.5, 4.75)  # at 24 frames per second all on a frame
DIAGONAL = float(np.hypot(videos_of.HEIGHT, videos_of.WIDTH))


def of(path) -> Record:
  return Record(path.name, dict(path=str(path), name=path.name), Lineage(path.name, 'CC0-1.0'))


def scenes(pictures):
  seconds = np.diff([0.0, *CUTS, 6.75])
  return [Scene(picture, length, pan) for picture, length, pan in zip(pictures, seconds, PANS)]


def near(one, other, most=6.0):
  """Mean difference of two images in levels: what H.264 changes, and no more."""
  return np.abs(one.astype(np.float32) - other).mean() < most


@pytest.fixture(scope='module', params=['drawn', pytest.param('photos', marks=pytest.mark.slow)])
def pictures(request):
  return (videos_of.textures(4) if request.param == 'drawn' else videos_of.photos(PHOTOS, 4))


@pytest.fixture(scope='module')
def panned(pictures, tmp_path_factory):
  shown = scenes(pictures)
  return shown, videos_of.write(tmp_path_factory.mktemp('panned') / 'v.mp4', shown)


@pytest.fixture(scope='module')
def cut(panned):
  return clips.scenes(of(panned[1]))


def test_cuts_are_found_to_the_frame(cut):
  assert cut['cuts'] == pytest.approx(CUTS, abs=1e-3)
  assert cut['length'] == pytest.approx(6.75, abs=1e-3)


def test_a_fast_zoom_is_no_cut(pictures, tmp_path):
  path = videos_of.write(tmp_path / 'v.mp4', [Scene(pictures[0], 2.0, pan=100, zoom=0.4)])
  assert clips.scenes(of(path))['cuts'] == []


def test_clips_rank_by_motion_as_they_pan(cut):
  made = [motion.motion(clips.end_frames(clip)) for clip in clips.clips(cut, seconds=5.0)]
  found = [clip['motion'] for clip in made]
  assert np.argsort(found).tolist() == np.argsort(PANS).tolist()
  for value, pan in zip(found, PANS):
    assert value == pytest.approx(pan / DIAGONAL, rel=0.1, abs=0.005)
  kept = [motion.moving(clip, least=0.05) for clip in made]
  assert [isinstance(each, Dropped) for each in kept] == [False, False, True, False]


def test_first_and_last_frames_are_those_of_the_scene(panned, cut):
  shown, _ = panned
  for clip in clips.clips(cut, seconds=1.0, shortest=0.7):
    if isinstance(clip, Record):
      pair = clips.end_frames(clip)
      last = clip['end'] - 1 / RATE
      wanted = videos_of.frames_of(shown, [clip['start'], last])
      assert near(decode(pair['first']), wanted[0]) and near(decode(pair['last']), wanted[1])
    else:
      assert clip.reason == 'short'


def test_pairs_across_cuts_come_from_both_sides(panned, cut):
  shown, _ = panned
  across = [clip for clip in clips.clips(cut, seconds=2.5, across=True)
            if isinstance(clip, Record) and clip['kind'] == clips.TRANSITION]
  # Windows from 0, 2.5 and 5 s: all but the last hold a cut.
  assert [clip['start'] for clip in across] == [0.0, 2.5]
  assert [clip.lineage.notes['cut_at'] for clip in across] == pytest.approx([2.0, 3.5], abs=1e-3)
  for clip in across:
    pair = motion.motion(clips.end_frames(clip))
    first, last = (decode(pair[name]) for name in ('first', 'last'))
    wanted = videos_of.frames_of(shown, [clip['start'], clip['end'] - 1 / RATE])
    assert near(first, wanted[0]) and near(last, wanted[1]) and not near(first, last)
    assert motion.moving(pair, least=9.0) is pair  # no motion is measured across a cut


def test_a_variable_frame_rate_changes_nothing_but_the_times(pictures, tmp_path):
  rng = np.random.default_rng(0)
  times = np.cumsum([0.0, *rng.uniform(0.02, 0.1, 80)]).round(4)
  shown = [Scene(pictures[0], 2.0, 60), Scene(pictures[1], 9.0, 20)]
  path = videos_of.write(tmp_path / 'v.mp4', shown, times=times)
  read = list(videos.frames(str(path)))
  assert [frame.time for frame in read] == pytest.approx(times, abs=1e-3)
  record = clips.scenes(of(path))
  assert record['cuts'] == pytest.approx([times[times >= 2.0][0]], abs=1e-3)
  first, second = (motion.motion(clips.end_frames(clip)) for clip in clips.clips(record)
                   if clip['end'] - clip['start'] > 1)
  for clip, pan in ((first, 60), (second, 20)):
    assert clip['motion'] == pytest.approx(pan / DIAGONAL, rel=0.1)


@pytest.mark.parametrize('rotation', [90, 180, -90])
def test_frames_are_upright(pictures, tmp_path, rotation):
  shown = [Scene(pictures[0], 0.25)]
  path = videos_of.write(tmp_path / 'v.mp4', shown, rotation=rotation)
  wanted = np.rot90(shown[0].frame(0.0), rotation // 90 % 4)
  assert near(next(videos.frames(str(path))).pixels, wanted)


def test_pixels_become_square(pictures, tmp_path):
  path = videos_of.write(tmp_path / 'v.mp4', [Scene(pictures[0], 0.25)], ratio='4/3')
  assert next(videos.frames(str(path))).pixels.shape == (96, 171, 3)
  assert next(videos.frames(str(path), side=64)).pixels.shape == (36, 64, 3)


@pytest.mark.parametrize('damage', ['empty', 'no video', 'headless', 'tail', 'missing'])
def test_broken_files_are_named(panned, tmp_path, damage):
  path, data = tmp_path / 'v.mp4', panned[1].read_bytes()
  if damage == 'tail':  # a transport stream has no index that could say what is missing
    path.write_bytes(_fast_start(panned[1], tmp_path)[:-len(data) // 2])
  elif damage != 'missing':
    path.write_bytes({'empty': b'', 'no video': b'RIFF' * 99, 'headless': data[:-900]}[damage])
  with pytest.raises(DecodeError):
    clips.scenes(of(path))


def _fast_start(path, folder) -> bytes:
  """The same file with its index before its frames."""
  import av
  with av.open(str(path)) as given, av.open(str(folder / 'fast.mp4'), 'w', options=dict(
      movflags='faststart')) as made:
    stream = made.add_stream_from_template(given.streams.video[0])
    for packet in given.demux(given.streams.video[0]):
      if packet.dts is not None:
        packet.stream = stream
        made.mux(packet)
  return (folder / 'fast.mp4').read_bytes()


def test_what_is_shown_twice_is_kept_once(pictures, tmp_path):
  """A still title, a pan, the same pan again, and the title again."""
  title, pan = Scene(pictures[2], 1.5), Scene(pictures[0], 1.5, 60)
  record = clips.scenes(of(videos_of.write(tmp_path / 'v.mp4', [title, pan, title, pan])))
  assert len(record['cuts']) == 3
  pairs = [clips.end_frames(clip) for clip in clips.clips(record)]
  seen = list(clips.unlike_clips(iter(pairs)))
  assert [isinstance(each, Dropped) for each in seen] == [False, False, True, True]
  alike = [clips.unlike_ends(pair) for pair in pairs]
  assert [getattr(each, 'reason', '') for each in alike[:2]] == ['first and last alike', '']


def test_fast_clips_are_repeated_in_proportion():
  counts = {}
  for value in (0.01, 0.05, 0.1, 0.5):
    made = [each for number in range(400) for each in motion.weighted(
        Record(f'{number}', dict(motion=value), Lineage('')), typical=0.05, most=3)]
    counts[value] = sum(isinstance(each, Record) for each in made) / 400
    assert len({each.id for each in made if isinstance(each, Record)}) == counts[value] * 400
  assert counts == pytest.approx({0.01: 0.2, 0.05: 1, 0.1: 2, 0.5: 3}, abs=0.06)


def test_another_flow_comes_by_plug_in(tmp_path):
  """A model whose flow is the difference of the two images' red, in x alone, 8 x 6 pixels."""
  node = helper.make_node
  image = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 6, 8])
           for name in 'ab']
  graph = helper.make_graph(
      [node('Sub', ['b', 'a'], ['d']), node('Mul', ['d', 'k'], ['e']),
       node('Slice', ['e', 'from', 'to', 'axis'], ['flow'])], 'g', image,
      [helper.make_tensor_value_info('flow', onnx.TensorProto.FLOAT, [1, 2, 6, 8])],
      [helper.make_tensor('k', 1, (1, 3, 1, 1), [5.0, 0.0, 0.0]),
       *(helper.make_tensor(name, 7, (1,), [value])
         for name, value in (('from', 0), ('to', 2), ('axis', 1)))])
  onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8),
            tmp_path / 'flow.onnx')
  small = np.zeros((3, 12, 16, 3), np.uint8)
  small[1:, ..., 0] = 255
  record = Record('a', dict(small=small, times=[0.0, 0.5, 1.0], kind=clips.CLIP), Lineage(''))
  model = open_model('flow', f'onnx:{tmp_path / "flow.onnx"}', tmp_path)
  # 5 of 10 pixels of the diagonal in the first half second, none in the second.
  assert motion.motion(record, model=model)['motion'] == pytest.approx(0.5)


def test_captions_come_from_both_frames(pictures, tmp_path):
  file = tmp_path / 'answers.jsonl'
  file.write_text(json.dumps(dict(text=clips.TRANSITION_PROMPT, reply='The camera\n pans. ')))
  record = Record('a', dict(first=b'1', last=b'2'), Lineage(''))
  made = clips.caption(record, model=open_model('c', f'replay:{file}', tmp_path))
  assert made['caption'] == 'The camera pans.'
  sample = clips.frame_pair(made)['sample']
  assert [part.role for part in sample.parts] == ['source', 'user', 'target']
  file.write_text(json.dumps(dict(error='refused')))
  dropped = clips.caption(record, model=open_model('d', f'replay:{file}', tmp_path))
  assert dropped.reason == 'no caption' and dropped.facts == {'error': 'refused'}
