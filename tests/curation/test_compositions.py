"""References, control maps and style pairs: what is drawn together, and how it is checked."""

import pathlib

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.curation import checks
from jaxgen.curation import compositions
from jaxgen.curation import controls
from jaxgen.curation import poses
from jaxgen.curation import references
from jaxgen.curation import sets
from jaxgen.curation import styles
from jaxgen.curation.models import Reply
from jaxgen.curation.models import Request
from jaxgen.curation.plugins import Features
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.features.embed import embed_images
from jaxgen.features.embed import embed_texts
from jaxgen.features.towers import open_tower
from tests.curation.pools_of import picture
from tests.curation.pools_of import signs
from tests.curation.test_pages import Scripted
from tests.features import folders

PHOTOS = pathlib.Path(__file__).parents[3] / 'shared/data/photos'
GREY = to_png(np.full((64, 48, 3), 90, np.uint8))


def record(**fields):
  return Record('r', fields, Lineage('r', 'MIT'))


def dealt(**roles):
  """Records of a pack: so many of each role."""
  return [Record(f'{role}{number}', dict(image=f'{role}{number}'.encode(), role=role, pack='0'),
                 Lineage(f'{role}{number}', 'MIT' if role == 'human' else 'CC0-1.0'))
          for role, count in roles.items() for number in range(count)]


@pytest.mark.parametrize('uses', [1, 3])
def test_compositions_fill_patterns_of_different_images(uses):
  patterns = [['human', 'human'], ['human', 'scene'], ['scene', 'object', 'human']]
  pack = dealt(human=8, scene=5, object=2, other=1)
  made = list(compositions.composed(pack, patterns=patterns, uses=uses))
  kept = [each for each in made if isinstance(each, Record)]
  assert all(each['roles'] in patterns for each in kept)
  used = [image for each in kept for image in each['given']]
  assert all(len(set(each['given'])) == len(each['given']) for each in kept)
  assert max(map(used.count, used)) <= uses and len({each.id for each in kept}) == len(kept)
  assert all(image.decode().startswith(role) for each in kept
             for image, role in zip(each['given'], each['roles'], strict=True))
  left = {each.record.id for each in made if isinstance(each, Dropped)}
  assert left == {each.id for each in pack} - {image.decode() for image in used} > set()
  mixed = next(each for each in kept if each['roles'] == ['human', 'scene'])
  assert mixed.lineage.licence == 'CC0-1.0 AND MIT'
  assert mixed.lineage.notes['others'] == [dict(source=mixed['given'][1].decode(), url='')]
  assert [each.id for each in kept] == [
      each.id for each in compositions.composed(pack, patterns=patterns, uses=uses)
      if isinstance(each, Record)]


def test_packs_are_drawn_by_the_id(tmp_path):
  packs = set()
  for number in range(40):
    (tmp_path / f'{number}.png').write_bytes(GREY)
    made = compositions.opened(
        Record(f'{number}', dict(path=str(tmp_path / f'{number}.png'), name=f'a/{number}.png'),
               Lineage('')), side=48, packs=4)
    assert made['role'] == 'a' and made['image'] == GREY
    packs.add(made['pack'])
  assert packs == {'0', '1', '2', '3'}
  listed = Record('n', dict(path=str(tmp_path / '0.png'), name='0.png', role='b'), Lineage(''))
  assert compositions.opened(listed, roles=['b'], side=48)['role'] == 'b'
  assert compositions.opened(listed, roles=['a'], side=48).reason == 'no such role'
  assert compositions.opened(listed, side=49).reason == 'small image'


@pytest.mark.parametrize('answer, error', [
    ('"The man of the first image  holds the cup in the second image."', ''),
    ('A man holds the cup of the second image.', 'must name each of the 2 images'),
    ('The first image, the second image and the third image meet.', 'must name each'),
    ('The first image and the second image ' + 'meet ' * 90, 'words; write no more than 60')])
def test_prompts_name_every_reference(answer, error):
  model = Scripted(lambda _: answer)
  made = references.prompted(record(given=[GREY, GREY], roles=['human', 'mug']), model=model)
  assert 'the first image shows a person, the second image shows mug' in model.asked[0].text
  if error:
    assert made.reason == 'no prompt' and error in made.facts['error']
  else:
    assert made['instruction'] == ['The man of the first image holds the cup in the second image.']


def tower(vectors):
  return Scripted(lambda request: Reply(arrays=dict(
      features=np.array(vectors[decode(request.images[0])[0, 0, 0]], np.float32))))


def coloured(value):
  return to_png(np.full((32, 32, 3), value, np.uint8))


@pytest.mark.parametrize('roles, identity, reason', [
    (['human'], 1.0, ''), (['human', 'object'], 0.6, 'unlike its references'), ([], 0.0, 'unlike '
                                                                                'its references')])
def test_identity_is_that_of_the_least_similar_reference(roles, identity, reason):
  vectors = {1: (1, 0), 2: (3, 4), 3: (0, 1), 9: (2, 0)}
  made = checks.alike(record(given=[coloured(value) for value in (1, 2, 3)], targets=[coloured(9)],
                             roles=['human', 'object', 'scene']),
                      model=tower(vectors), least=0.7, roles=roles)
  assert getattr(made, 'reason', '') == reason
  facts = made.facts if reason else made.lineage.notes
  assert facts['identity'] == pytest.approx(identity)


@pytest.mark.parametrize('target, reason', [
    ((1, 0.2), ''), ((0, 1), 'identity lost'), ((0.7, 0.7), 'subject of the style image')])
def test_styles_do_not_leak(target, reason):
  vectors = {1: (1, 0), 2: (0, 1), 9: target}
  made = styles.content_kept(record(given=[coloured(1), coloured(2)], targets=[coloured(9)]),
                             model=tower(vectors), least=0.5, most=0.5)
  assert getattr(made, 'reason', '') == reason


@pytest.mark.parametrize('answer, reason', [
    ('{"a": 7, "b": 5}', ''), ('{"a": 6.5, "b": 9}', 'a too low'),
    ('{"a": 9, "b": 4}', 'b too low'), ('{"a": 9}', 'no scores')])
def test_a_judge_sees_what_it_is_to_judge(answer, reason):
  model = Scripted(lambda _: answer)
  made = checks.judged(record(given=[coloured(1), coloured(2)], targets=[coloured(9)], image=GREY,
                              instruction=['draw {it}'], role='a'),
                       model=model, prompt='{text}: {"a": 0}', least={'a': 7, 'b': 5},
                       where={'role': 'a'})
  assert getattr(made, 'reason', '') == reason
  assert model.asked[0] == Request('draw {it}: {"a": 0}', tuple(map(coloured, (1, 2, 9))))
  passed = record(role='b')
  assert checks.judged(passed, model=model, prompt='', least={}, where={'role': 'a'}) is passed


def test_edges_and_lines_of_a_known_picture():
  """A black frame line on white: edges on both of its sides, a line on itself."""
  image = np.full((80, 100, 3), 255, np.uint8)
  image[20:60, 30:33] = 0
  found = controls.edges(image)[..., 0] > 0
  assert found[30:50, 29:34].any(1).all() and not found[:, :26].any() and not found[:, 37:].any()
  lines = controls.line_art(image)[..., 0]
  assert (lines[25:55, 31] > 150).all() and lines[:, :26].max() == lines[:, 37:].max() == 0
  assert controls.edges(np.full_like(image, 90)).max() == 0
  assert controls.line_art(np.full_like(image, 90)).max() == 0


@pytest.mark.slow
def test_photographs_have_edges_and_lines():
  """And these are no pictures of noise: most of them stays black."""
  files = sorted(PHOTOS.glob('*.jpg'))[::6]
  assert files
  for file in files:
    image = decode(file.read_bytes())
    for drawn in (controls.edges(image), controls.line_art(image)):
      lit = (drawn > 127).any(-1).mean()
      assert drawn.shape == image.shape and controls.EMPTY < lit < 0.4, (file.name, lit)


def test_depth_is_white_where_it_is_near():
  near = np.linspace(-3, 5, 12, dtype=np.float32).reshape(1, 3, 4)
  made = controls.response_map(GREY, Scripted(lambda _: Reply(arrays=dict(depth=near))))
  assert made.shape == (64, 48, 3) and (made[0, 0] == 0).all() and (made[-1, -1] == 255).all()
  assert (np.diff(made[..., 0].astype(int), axis=0) >= 0).all()
  with pytest.raises(UserError, match='gives no map'):
    controls.response_map(GREY, Scripted(lambda _: Reply(arrays=dict(depth=near[0, 0]))))


def person():
  """f[56, 2] of a standing person in a model's 640 x 640, and one that is no person."""
  points = np.array([(320, 100), (330, 90), (310, 90), (340, 95), (300, 95), (370, 160), (270, 160),
                     (390, 240), (250, 240), (400, 320), (240, 320), (350, 320), (290, 320),
                     (350, 440), (290, 440), (350, 560), (290, 560)], float)
  seen = np.concatenate([points, np.ones((17, 1))], 1)
  seen[9, 2] = 0.1  # the left hand is hidden
  found = np.concatenate([[320, 320, 200, 500, 0.9], seen.ravel()])
  return np.stack([found, np.concatenate([[50, 50, 20, 20, 0.1], np.zeros(51)])], 1)


def test_poses_are_drawn_where_the_points_are():
  """In an image of another shape than the model's square, without what is hidden."""
  image = to_png(np.zeros((320, 160, 3), np.uint8))
  model = Scripted(lambda _: Reply(arrays=dict(output0=person().astype(np.float32))))
  made = poses.pose_map(image, model)
  assert made.shape == (320, 160, 3)
  x, y = 0.25, 0.5  # pixels of the image for one of the model's
  assert tuple(made[round(100 * y), round(320 * x)]) == poses.COLORS[0]  # the nose
  assert tuple(made[round(560 * y), round(290 * x)]) == poses.COLORS[10]  # the right ankle
  neck, elbow = made[round(160 * y), round(320 * x)], made[round(240 * y), round(390 * x)]
  assert tuple(neck) == poses.COLORS[1] and tuple(elbow) == poses.COLORS[6]
  assert not made[round(320 * y), round(400 * x)].any() and not made[-20:, -20:].any()
  assert not poses.pose_map(image, Scripted(lambda _: Reply(arrays=dict(
      output0=np.zeros((56, 1), np.float32))))).any()


def test_a_control_map_stands_before_the_references():
  """Which map it is depends on the id; where the one drawn is empty, another one is taken."""
  given = dict(given=[GREY], targets=[picture(signs(0))], instruction=['draw'])
  nobody = Scripted(lambda _: Reply(arrays=dict(output0=np.zeros((56, 1), np.float32))))
  signals = set()
  for number in range(16):
    made = controls.mapped(Record(f'{number}', given, Lineage('')), pose=nobody,
                           signals=['canny', 'lineart', 'openpose'])
    control, reference = made['given']
    assert reference == GREY and made['instruction'] == ['']
    expected = dict(canny=controls.edges, lineart=controls.line_art)[made['signal']](
        decode(given['targets'][0]))
    np.testing.assert_array_equal(decode(control), expected)
    signals.add(made['signal'])
  assert signals == {'canny', 'lineart'}
  flat = record(**given | dict(targets=[GREY]))
  assert controls.mapped(flat, signals=['canny', 'lineart']).reason == 'empty map'
  with pytest.raises(UserError, match="'depth', 'line'.*depth and openpose by models"):
    controls.mapped(flat, signals=['canny', 'depth', 'line'])


def test_samples_are_worded_as_the_released_model_is_asked():
  made = compositions.montage_sample(
      record(given=[GREY, GREY], targets=[GREY], instruction=['', ''], signal='depth'),
      wording='conditioned_cref')['sample']
  assert [part.role for part in made.parts] == ['reference', 'reference', 'user', 'target']
  assert made.texts[0].text == 'Ref to the first depth image, generate image with other images.'
  story = compositions.montage_sample(
      record(given=[GREY], targets=[GREY] * 2, instruction=['1. a 2. b'], style='comic'),
      wording='storyboard', sources=1)['sample']
  assert [part.role for part in story.parts] == ['source', 'user', 'target', 'target']
  assert story.texts[0].text == 'Inspired by this character, a comic unfolds: 1. a 2. b'


def test_pictures_of_references_have_one_form():
  def of(*parts):
    return sets.reference_fields(record(sample=Sample('r', parts)), most=2)

  image, target = Part('reference', image=GREY), Part('target', image=GREY, loss=True)
  made = of(image, Part('user', text='a', variants=('a', 'b')), image, target)
  assert made['given'] == [GREY, GREY] and made['instruction'] == ['a', 'b']
  assert of(Part('user', text='the'), image, Part('user', text='on it'), target)[
      'instruction'] == ['the on it']
  for parts in ((image,) * 3 + (Part('user', text='a'), target), (image, target),
                (Part('user', text='a'), target), (image, Part('user', text='a'), target, target)):
    assert of(*parts).reason == 'no picture of references'


def test_a_tower_of_ours_is_a_model(tmp_path):
  """A CLIP as transformers saves it: images and texts in one space, asked in one go."""
  folders.save_clip(str(tmp_path / 'clip'))
  images = [picture(signs(number), 32) for number in range(3)]
  model = Features('clip', str(tmp_path / 'clip'))
  one, text, several = model.ask([Request(images=(images[0],)), Request('a dog'),
                                  Request(images=tuple(images[1:]))])
  ours = open_tower(str(tmp_path / 'clip'))
  expected = embed_images(ours, images)
  np.testing.assert_allclose(one.arrays['features'], expected[0], atol=1e-6)
  np.testing.assert_allclose(several.arrays['features'], expected[1:], atol=1e-6)
  np.testing.assert_allclose(text.arrays['features'], embed_texts(ours, ['a dog'])[0], atol=1e-6)
  with pytest.raises(UserError, match='no-such-folder'):
    Features('clip', str(tmp_path / 'no-such-folder'))
