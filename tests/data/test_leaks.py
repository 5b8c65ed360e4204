"""Samples of an evaluation are found in a source: by id, by text, and by images saved anew."""

import io
import json

import imagehash
import numpy as np
import pytest
from PIL import Image
from PIL import ImageFilter

from jaxgen.data import leaks
from jaxgen.data.hashes import bits_apart
from jaxgen.data.hashes import image_hash
from jaxgen.data.hashes import NEAR
from jaxgen.data.hashes import text_hash
from jaxgen.data.sample import FileImage
from jaxgen.data.sources import open_source


def picture(seed, size=(96, 80)):
  """A smooth image that is like no other, as photographs are."""
  noise = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
  return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def as_jpeg(image, quality=70):
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', quality=quality)
  return Image.open(io.BytesIO(buffer.getvalue())).convert('RGB')


@pytest.mark.parametrize('seed', range(4))
def test_the_hash_is_that_of_imagehash(seed):
  image = picture(seed, (61, 47))
  expected = np.packbits(imagehash.phash(image).hash).view('>u8')[0]
  assert image_hash(np.asarray(image)) == expected


def test_an_image_that_was_saved_anew_is_near_and_others_are_far():
  images = [picture(seed) for seed in range(30)]
  hashes = np.array([image_hash(np.asarray(image)) for image in images])
  for image, own in zip(images, hashes):
    for copy in (as_jpeg(image), image.resize((48, 40)), as_jpeg(image.resize((200, 170)), 40),
                 image.filter(ImageFilter.GaussianBlur(1)), image.convert('L').convert('RGB')):
      assert bits_apart(image_hash(np.asarray(copy)), own) <= NEAR
  apart = bits_apart(hashes[:, None], hashes)
  assert apart[~np.eye(30, dtype=bool)].min() > 2 * NEAR and not np.diag(apart).any()
  assert image_hash(np.full((40, 40, 3), 200, np.uint8)) is None


def test_texts_are_the_same_whatever_their_case_spaces_and_ends():
  assert text_hash('A photo of a bench.') == text_hash('  a photo  of a\nBENCH')
  assert text_hash('ｆｕｌｌ width') == text_hash('full width')
  assert text_hash('a photo of a bench') != text_hash('a photo of two benches')


@pytest.fixture
def source(tmp_path):
  """300 captioned images, among them one of each kind of leak and two that are broken."""
  lines = []
  for number in range(300):
    picture(1000 + number, (24, 20)).save(tmp_path / f'{number}.png')
    lines.append(dict(id=f'sample {number}', parts=[
        dict(text=f'caption {number}', role='user'),
        dict(image=f'{number}.png', role='target')]))
  as_jpeg(picture(7)).save(tmp_path / '17.png')
  lines[280]['parts'][0]['text'] = ['something else', 'A dog on the MOON!']
  lines[290]['id'] = 'how-to 5'
  (tmp_path / '30.png').write_bytes(b'no image')
  (tmp_path / '31.png').write_bytes((tmp_path / '32.png').read_bytes()[:60])
  (tmp_path / 'samples.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return open_source('jsonl', str(tmp_path / 'samples.jsonl'))


def test_every_kind_of_leak_is_found_and_named(source, tmp_path):
  picture(7).save(tmp_path / 'held.png')
  held = leaks.held_of([('how-to 5', ['a text of its own'], []), ('3', ['a dog on the moon'], []),
                        ('7', [''], [FileImage(str(tmp_path / 'held.png'))])], '--data')
  assert not any(name.isdigit() for name in held.ids)  # any folder has a sample 3
  seen = []
  found = leaks.search(source, held, progress=lambda done, total: seen.append((done, total)))
  assert (found.records, found.unreadable, found.count) == (300, 2, 3)
  assert seen == [(256, 300), (300, 300)]
  assert [(leak.kind, leak.item, leak.sample.rpartition('/')[2]) for leak in found.leaks] == [
      ('image', '7', 'samples.jsonl:18'), ('text', '3', 'samples.jsonl:281'),
      ('id', 'how-to 5', 'samples.jsonl:291')]
  assert found.leaks[0].bits <= NEAR
  nothing = leaks.search(source, leaks.held_of([('9', ['unseen'], [])], '--data'))
  assert (nothing.count, nothing.leaks) == (0, [])


def test_leaks_beyond_those_that_are_named_are_counted(source, monkeypatch):
  monkeypatch.setattr(leaks, 'KEPT', 2)
  held = leaks.held_of([('x', [f'caption {number}' for number in range(40, 45)], [])], '--data')
  found = leaks.search(source, held)
  assert (found.count, len(found.leaks)) == (5, 2)
