"""Edits: filters keep what was planted, the reverse of the reverse, translations, wider masks."""

import numpy as np
import pytest

from jaxgen.core.image_files import to_png
from jaxgen.curation import edits
from jaxgen.curation import masks
from jaxgen.curation import sets
from jaxgen.curation.models import Reply
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from tests.curation import pages_of
from tests.curation import pools_of
from tests.curation.test_pages import Scripted


def edit(words='Add a hat', **fields):
  return Record('e', dict(source=b'\x89PNG1', target=b'\x89PNG2', instruction=[words], **fields),
                Lineage('e'))


@pytest.mark.parametrize('text, inverse', [
    ('Add a hat.', 'Remove a hat.'),
    ('remove the red car from the image', 'add the red car to the image'),
    ('Add a dog to the scene', 'Remove a dog from the scene'),
    ('Replace the cat with a dog', 'Replace a dog with the cat'),
    ('swap the cup for a jug!', 'swap a jug for the cup!'),
    ('Make it night', ''), ('Add a hat and remove the dog', ''), ('Remove', ''),
    ('Replace the man with a hat with a dog', ''), ('address the dog', ''),
])
def test_the_words_of_a_reverse(text, inverse):
  assert edits.inverse_of(text) == inverse
  if inverse:
    assert edits.inverse_of(inverse) == text


def test_a_reverse_of_a_reverse_is_the_edit():
  record = edit(inverse=['Remove a hat'])
  back = edits.turned(record)
  assert (back['source'], back['target'], back['instruction']) == (
      b'\x89PNG2', b'\x89PNG1', ['Remove a hat'])
  assert edits.turned(back).fields == record.fields
  assert back.lineage.notes['reversed'] and not edits.turned(back).lineage.notes['reversed']


def test_reverses_are_asked_for_where_words_do_not_tell():
  images = [pages_of.encoded(image) for image in pages_of.photos(2)]
  record = edit('Make it night').having(source=images[0], target=images[1])
  model = Scripted(lambda _: '"Make it day"')
  first, second = edits.with_reverse(record, model=model)
  assert first is record and second['instruction'] == ['Make it day']
  assert second['target'] == images[0] and second.id == 'e/reverse'
  alone, = edits.with_reverse(edit(), model=Scripted(lambda _: 1 / 0), keep=False)
  assert alone['instruction'] == ['Remove a hat']
  kept, dropped = edits.with_reverse(record, model=Scripted(lambda _: Reply(error='refused')))
  assert kept is record and dropped.reason == 'no reverse'


def test_similarities_keep_exactly_the_planted_ones():
  base = np.linspace(0.2, 1, 48).astype(np.float32)
  vectors = {b'\x89PNG1': base, b'good': np.roll(base, 6), b'far': -base, b'dark': base[::-1] - 1}
  tower = Scripted(lambda request: Reply(arrays=dict(
      out=next(vector for name, vector in vectors.items() if pictures[name] == request.images[0])
      [None])))
  words = Scripted(lambda _: Reply(arrays=dict(out=np.ones(48, np.float32))))
  pictures = {name: pools_of.picture(vector) for name, vector in vectors.items()}
  reasons = {}
  for name in vectors:
    record = edit().having(source=pictures[b'\x89PNG1'], target=pictures[name])
    made = edits.similar(record, images=tower, texts=words, least_image=0.5, most_image=0.99,
                         least_text=0.5)
    reasons[name] = made.reason if isinstance(made, Dropped) else ''
  assert reasons == {b'\x89PNG1': 'nothing changed', b'good': '',
                     b'far': 'target unlike its source', b'dark': 'target unlike its source'}
  record = edit().having(source=pictures[b'\x89PNG1'], target=pictures[b'good'])
  against = Scripted(lambda _: Reply(arrays=dict(out=-np.ones(48, np.float32))))
  assert edits.similar(record, images=tower, texts=against, least_image=0.5, most_image=0.99,
                       least_text=0.5).reason == 'target unlike its words'


@pytest.mark.parametrize('answer, reason', [
    ('{"fidelity": 7, "quality": 8}', ''), ('{"fidelity": 6, "quality": 10}', 'not as instructed'),
    ('```json\n{"fidelity": 9, "quality": 6.5}\n```', 'poor image'),
    ('{"fidelity": 11, "quality": 9}', 'no scores'), ('{"fidelity": true}', 'no scores'),
    ('seven', 'no scores')])
def test_two_scores_decide(answer, reason):
  image = pools_of.picture(pools_of.signs(0), 32)
  made = edits.judged(edit().having(source=image, target=image), model=Scripted(lambda _: answer))
  assert getattr(made, 'reason', '') == reason
  if not reason:
    assert made.lineage.notes == dict(fidelity=7.0, quality=8.0)


@pytest.mark.parametrize('answer, wanted', [
    ('“加一顶帽子”', ['Add a hat', '加一顶帽子']), ('Ajoute un chapeau', 'it is not in Chinese'),
    ('帽' * 60, '60 letters'), ('', 'one instruction')])
def test_translations(answer, wanted):
  made = edits.translated(edit(), model=Scripted(lambda _: answer))
  if isinstance(wanted, list):
    assert made['instruction'] == wanted
    parts = edits.edit_sample(made)['sample'].parts
    assert [part.role for part in parts] == ['source', 'user', 'target']
    assert parts[1].variants == tuple(wanted)
  else:
    assert made.reason == 'no translation' and wanted in made.facts['error']
  chinese = edit('加一顶帽子')
  assert edits.translated(chinese, model=Scripted(lambda _: 1 / 0)) is chinese


def test_samples_of_edits_have_one_form():
  image = pools_of.picture(pools_of.signs(0), 32)
  parts = (Part('source', image=image), Part('user', text='a', variants=('a', 'b')),
           Part('target', image=decode(image), loss=True))

  def of(*parts):
    return Record('r', dict(sample=Sample('r', parts)), Lineage('r'))

  made = sets.edit_fields(of(*parts))
  assert made['instruction'] == ['a', 'b'] and made['source'] == image
  assert decode(made['target']).shape == (32, 32, 3)
  for other in ((*parts, *parts[1:]), parts[1:], (parts[0], parts[2]),
                (Part('reference', image=image), *parts[1:])):
    assert sets.edit_fields(of(*other)).reason == 'no edit of one image'


@pytest.mark.parametrize('shape', masks.SHAPES)
def test_an_augmented_mask_covers_the_mask(shape):
  mask = np.zeros((80, 100), bool)
  mask[30:40, 20:60] = mask[20:50, 35:42] = True  # a cross
  for seed in range(8):
    wider = masks.augmented_mask(mask, shape, np.random.default_rng(seed))
    assert wider[mask].all() and 1.2 * mask.sum() < wider.sum() < 0.8 * mask.size
  once, again = (masks.augmented_mask(mask, shape, np.random.default_rng(1)) for _ in range(2))
  np.testing.assert_array_equal(once, again)


def test_an_object_is_removed_within_the_mask_alone():
  image = np.asarray(pages_of.photos(1)[0])
  mask = np.zeros((*image.shape[:2], 3), np.uint8)
  mask[60:100, 80:140] = 255
  record = Record('m', dict(image=to_png(image), mask=to_png(mask), object='dog'), Lineage('m'))
  wider = masks.wider_mask(record)
  model = Scripted(lambda _: Reply(images=(to_png(np.zeros((50, 75, 3), np.uint8)),)))
  made = masks.removed(wider, model=model)
  inside = decode(wider['mask']) > 127
  target = decode(made['target'])
  np.testing.assert_array_equal(target, np.where(inside, 0, image))
  assert made['instruction'][0] == 'Remove the dog from the image.'
  assert edits.inverse_of(made['instruction'][0]) == 'Add the dog to the image.'
  assert 'dog' in model.asked[0].text and len(model.asked[0].images) == 2
  assert masks.wider_mask(record, most=0.01).reason == 'large mask'
  assert masks.wider_mask(record.having(mask=to_png(0 * mask))).reason == 'empty mask'
