"""The sample schema: both JSON forms, the binary form, errors that name file, line and field."""

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import sample as samples
from jaxgen.data.decode import decode
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample


def test_short_form():
  sample = samples.from_json({'file': 'a.jpg', 'caption': 'a cat'}, 'x.jsonl:3', '/data')
  assert sample.id == 'a.jpg' and sample.origin == 'x.jsonl:3'
  assert sample.parts == (Part('user', text='a cat'),
                          Part('target', image=FileImage('/data/a.jpg'), loss=True))


def test_image_key_and_missing_caption():
  sample = samples.from_json({'image': 'a.jpg', 'caption': None, 'id': 'one'}, 'x:1', '/data')
  assert sample.id == 'one' and not sample.texts and len(sample.images) == 1


@pytest.mark.parametrize('path', ['/elsewhere/a.jpg', 'gs://bucket/a.jpg'])
def test_whole_paths_stand_as_they_are(path):
  short = samples.from_json({'file': path}, 'x:1', '/data')
  full = samples.from_json({'id': 's', 'parts': [{'image': path, 'role': 'target'}]}, 'x:1', '/data')
  assert short.images[0].image == full.images[0].image == FileImage(path)


def test_full_form_keeps_order_roles_and_loss():
  sample = samples.from_json({'id': 's', 'task': 'edit', 'parts': [
      {'image': 'a.png', 'role': 'source'}, {'text': 'make it red', 'role': 'user'},
      {'image': 'b.png', 'role': 'target'}, {'text': 'done', 'role': 'assistant', 'loss': False},
  ]}, 'x:1', '/data')
  assert [part.role for part in sample.parts] == ['source', 'user', 'target', 'assistant']
  assert [part.loss for part in sample.parts] == [False, False, True, False]
  assert sample.task == 'edit'


@pytest.mark.parametrize('record, field', [
    ({'caption': 'no image'}, 'file'),
    ({'file': 3}, 'file'),
    ({'file': 'a.jpg', 'caption': 5}, 'caption'),
    ([], 'JSON object'),
    ({'id': 's', 'parts': []}, 'parts'),
    ({'id': 's', 'parts': [{'text': 'x', 'role': 'target'}]}, r'parts\[0\].role'),
    ({'id': 's', 'parts': [{'role': 'user'}]}, r'parts\[0\]'),
    ({'id': 's', 'parts': [{'text': 'x', 'role': 'user', 'loss': 1}]}, r'parts\[0\].loss'),
    ({'parts': [{'text': 'x', 'role': 'user'}]}, 'id'),
    ({'id': 's', 'parts': [{'text': [], 'role': 'user'}]}, r'parts\[0\]: text'),
    ({'id': 's', 'parts': [{'image': None, 'role': 'target'}]}, r'parts\[0\]: image'),
    ({'id': 's', 'parts': [{'image': 'a', 'role': 'target', 'size': [0, 4]}]}, r'parts\[0\].size'),
])
def test_bad_records_name_line_and_field(record, field):
  with pytest.raises(UserError, match=rf'^x\.jsonl:7.*{field}'):
    samples.from_json(record, 'x.jsonl:7', '/data')


def test_bytes_round_trip_is_exact():
  image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
  sample = Sample('é 1', (Part('user', text='ä text'), Part('reference', image=b'raw bytes'),
                          Part('target', image=image, loss=True)), task='edit')
  again = samples.from_bytes(samples.to_bytes(sample), 'file:1')
  assert (again.id, again.task, again.origin) == ('é 1', 'edit', 'file:1')
  assert again.parts[:2] == sample.parts[:2]
  assert again.parts[2].loss
  np.testing.assert_array_equal(decode(again.parts[2].image), image)


def test_sizes_wordings_and_images_that_are_asked_for():
  sample = samples.from_json({'id': 's', 'parts': [
      {'text': ['make it red', 'redden it'], 'role': 'user'},
      {'image': 'a.png', 'role': 'target', 'size': [32, 48], 'loss': False},
      {'image': None, 'role': 'target', 'size': [64, 16]}]}, 'x:1', '/data')
  assert sample.parts == (
      Part('user', text='make it red', variants=('make it red', 'redden it')),
      Part('target', image=FileImage('/data/a.png'), size=(32, 48)),
      Part('target', loss=True, size=(64, 16)))
  assert samples.from_json({'file': 'a', 'caption': ['x', 'y']}, 'x:1', '').parts[0].variants == (
      'x', 'y')


def test_bytes_keep_every_field():
  sample = Sample('s', (
      Part('user', text='one', variants=('one', 'two'), loss=True),
      Part('context', image=b'raw', seen=False, clean=False, maskable=True),
      Part('target', loss=True, size=(64, 16)), Part('assistant', text='', loss=True)), 'edit', 'o')
  assert samples.from_bytes(samples.to_bytes(sample), 'o') == sample


def test_records_of_the_former_version_are_read():
  header = (b'{"id": "s", "task": "pair", "parts": [{"role": "user", "loss": false, "text": "x"}, '
            b'{"role": "target", "loss": true, "bytes": 3}]}')
  sample = samples.from_bytes(len(header).to_bytes(4, 'little') + header + b'raw', 'o')
  assert sample == Sample('s', (Part('user', text='x'), Part('target', image=b'raw', loss=True)),
                          'pair', 'o')


def test_numbers_draw_all_combinations_of_wordings():
  sample = Sample('s', (samples.text_part('user', ['a', 'b']), samples.text_part('user', ['c']),
                        samples.text_part('assistant', ['d', 'e', 'f'], loss=True)))
  drawn = [samples.draw_variant(sample, number) for number in range(12)]
  texts = [tuple(part.text for part in one.parts) for one in drawn]
  assert len(set(texts[:6])) == 6 and texts[6:] == texts[:6]
  assert all(part.variants == () for one in drawn for part in one.parts)
  assert drawn[0].parts[2].loss
  plain = samples.pair('p', b'', 'x')
  assert samples.draw_variant(plain, 3) is plain


@pytest.mark.parametrize('data', [b'', b'\x03\x00\x00\x00abc', b'\xff' * 40])
def test_foreign_bytes_are_refused(data):
  with pytest.raises(UserError, match='^file:1: is not a sample of jaxgen'):
    samples.from_bytes(data, 'file:1')


def test_hash_is_stable_and_fits():
  assert samples.hash_id('backpack_00.jpg') == samples.hash_id('backpack_00.jpg')
  hashes = {samples.hash_id(f'{index}') for index in range(5000)}
  assert len(hashes) == 5000 and max(hashes) < 2**31
