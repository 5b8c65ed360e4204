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


@pytest.mark.parametrize('data', [b'', b'\x03\x00\x00\x00abc', b'\xff' * 40])
def test_foreign_bytes_are_refused(data):
  with pytest.raises(UserError, match='^file:1: is not a sample of jaxgen'):
    samples.from_bytes(data, 'file:1')


def test_hash_is_stable_and_fits():
  assert samples.hash_id('backpack_00.jpg') == samples.hash_id('backpack_00.jpg')
  hashes = {samples.hash_id(f'{index}') for index in range(5000)}
  assert len(hashes) == 5000 and max(hashes) < 2**31
