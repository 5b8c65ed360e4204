"""Views and turns of photographs: exact pixels, words that agree with them, subjects held out."""

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data.sources import open_source
from jaxgen.data.sources.photos import MOVES
from jaxgen.data.sources.photos import TURNS
from jaxgen.data.sources.photos import VISITS
from jaxgen.data.sources.subjects import subject_of
from jaxgen.data.wordings import steps_of

SIZE = 16
SUBJECTS = [f'{name}_{number:02d}' for name in ('bag', 'cat', 'dog', 'hat') for number in (0, 1)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> str:
  """Eight photographs of four subjects: red grows downwards, green to the right, blue tells which.

  Green grows as fast as red, so that the two say where in the photograph a pixel lies.
  """
  root = tmp_path_factory.mktemp('photos')
  for number, name in enumerate(SUBJECTS):
    height, width = (100, 160) if number % 2 else (160, 100)
    down, right = np.mgrid[:height, :width]
    photo = np.stack([down, right, np.full_like(down, 20 * number)], axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(root / f'{name}.png')
  return str(root)


def opened(folder, task='', **options):
  return open_source('photos', folder, size=SIZE, fields={'task': task} if task else {}, **options)


def images(sample) -> list[np.ndarray]:
  return [part.image.astype(float) for part in sample.images]


def test_a_sample_is_the_same_at_every_visit_and_another_seed_gives_others(folder):
  source, again = opened(folder), opened(folder)
  assert len(source) == 6 * VISITS
  for index in (0, 7, 600):
    first, second = source[index], again[index]
    assert first.id == second.id and first.texts == second.texts
    for one, other in zip(first.images, second.images, strict=True):
      np.testing.assert_array_equal(one.image, other.image)
  other = opened(folder, seed=1)
  assert any((source[index].images[0].image != other[index].images[0].image).any()
             for index in range(4))


@pytest.mark.parametrize('task, opening', [
    ('views', 'Please change views of given image, 1. '), ('turns', '1. ')])
def test_the_words_say_as_many_steps_as_there_are_images(folder, task, opening):
  source, counts = opened(folder, task), set()
  for index in range(40):
    sample = source[index]
    outputs = len(sample.targets)
    assert sample.texts[0].text.startswith(
        f'Please output {outputs} images according to the instruction: {opening}')
    assert len(steps_of(sample.texts[0].text)) == outputs
    assert set(steps_of(sample.texts[0].text)) <= set(MOVES if task == 'views' else TURNS)
    assert [part.role for part in sample.parts] == ['source', 'user', *['target'] * outputs]
    assert {image.shape for image in images(sample)} == {(SIZE, SIZE, 3)}
    counts.add(outputs)
  assert counts == {1, 2, 3}


def steps_in(source, count):
  """``(step, image before it, image after it)`` of some samples."""
  for index in range(count):
    sample = source[index]
    seen = images(sample)
    yield from zip(steps_of(sample.texts[0].text), seen[:-1], seen[1:], strict=True)


def test_views_move_as_they_are_told(folder):
  """Where a window lies is read from the colours of its middle; what it spans, from its sides."""
  said = set()
  for step, before, after in steps_in(opened(folder, 'views'), 120):
    down, right, factor = MOVES[step]
    (middle, span), (moved, now) = map(_window, (before, after))
    scale = span * SIZE / (SIZE - 1)  # a window's side, where its outer pixels have centres
    assert now / span == pytest.approx(factor, abs=0.08), step
    assert moved - middle == pytest.approx(np.array([down, right]) * scale / 3, abs=1.6), step
    assert after[..., 2].std() < 1e-6  # of the same photograph
    said.add(step)
  assert said == set(MOVES)


def _window(image: np.ndarray) -> tuple[np.ndarray, float]:
  """Middle (down, right) of a window and its extent, in pixels of the photograph."""
  middle = image[..., :2].mean(axis=(0, 1))
  return middle, float(image[-1, :, 0].mean() - image[0, :, 0].mean())


def test_turns_change_the_image_before_them(folder):
  said = set()
  for step, before, after in steps_in(opened(folder, 'turns'), 60):
    expected = {
        'mirror it': before[:, ::-1], 'turn it upside down': before[::-1],
        'tint it red': before * 0.6 + [102, 0, 0], 'tint it green': before * 0.6 + [0, 102, 0],
        'tint it blue': before * 0.6 + [0, 0, 102], 'make it darker': before / 2,
        'make it black and white': np.repeat(
            before @ np.array([[0.299], [0.587], [0.114]]), 3, axis=2)}[step]
    np.testing.assert_allclose(after, expected, atol=0.51, err_msg=step)
    said.add(step)
  assert said == set(TURNS)


def test_subjects_are_held_out_whole(folder, tmp_path):
  train, test = ({source[index].origin.rpartition('/')[2] for index in range(len(SUBJECTS))}
                 for source in (opened(folder), opened(folder, split='test')))
  assert test == {'hat_00.png', 'hat_01.png'}  # of fewer than eight subjects, the last one
  assert train == {f'{name}.png' for name in SUBJECTS[:6]}
  for number in range(2):
    Image.new('RGB', (20, 20)).save(tmp_path / f'cup-{number}.png')
  with pytest.raises(UserError, match='photographs of one subject alone, and none could be held'):
    opened(str(tmp_path))


def test_pairs_of_a_subject_come_by_turns(folder, tmp_path):
  """The first pair of every subject before the second; nothing crosses subjects or splits."""
  source = open_source('subjects', folder)
  names = [[part.image.path.rpartition('/')[2].removesuffix('.png') for part in source[index].images]
           for index in range(len(source))]
  assert names == [[f'{subject}_{given}', f'{subject}_{drawn}']
                   for given, drawn in (('00', '01'), ('01', '00'))
                   for subject in ('bag', 'cat', 'dog')]
  first = source[0]
  assert [part.role for part in first.parts] == ['reference', 'user', 'target']
  assert first.targets and len({source[index].texts[0].text for index in range(6)}) == 1
  held = open_source('subjects', folder, split='test')
  assert {subject_of(held[index]) for index in range(len(held))} == {'hat'}
  for name in ('cup_1', 'mug_1'):
    Image.new('RGB', (20, 20)).save(tmp_path / f'{name}.png')
  with pytest.raises(UserError, match='no subject has several photographs; name those of one'):
    open_source('subjects', str(tmp_path))


@pytest.mark.parametrize('fields, size, said', [
    ({'task': 'zooms'}, SIZE, "= {'task': 'zooms'}: photos have the field task, one of views"),
    ({'grids': '2x2'}, SIZE, "= {'grids': '2x2'}: photos have the field task"),
    ({}, 0, '--path: size = 0: windows of photographs have none of their own; give the side'),
])
def test_settings_that_are_none(folder, fields, size, said):
  with pytest.raises(UserError, match=said):
    open_source('photos', folder, size=size, fields=fields)


def test_pairs_of_images_are_no_photographs(tmp_path):
  for kind in ('target', 'control'):
    (tmp_path / kind).mkdir()
    for name in ('bag', 'cat'):
      Image.new('RGB', (20, 20)).save(tmp_path / kind / f'{name}.png')
  with pytest.raises(UserError, match='= 2: photos are samples of one image each'):
    opened(str(tmp_path))
