"""Captions reach the image they are meant for, however they are written; what is left out is named."""

import json
import os
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import UserError
from jaxgen.data import commands
from jaxgen.data.commands import Opening
from jaxgen.data.sources import open_source

TEXT = 'ein Fuß,\u2028zwei Füße'


def put(root, *names):
  """Small images under these names."""
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / name, 'PNG')
  return root


def texts_of(root) -> dict[str, tuple[str, ...]]:
  """Image -> wordings of its caption."""
  found = open_source('folder', str(root))
  samples = [found[index] for index in range(len(found))]
  return {sample.id: tuple(text for part in sample.texts for text in part.variants or (part.text,))
          for sample in samples}


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_a_byte_order_mark_is_no_part_of_any_text(encoding, tmp_path):
  put(tmp_path, 'a.png', 'b.png', 'c.png')
  (tmp_path / 'a.txt').write_text(TEXT, encoding)
  (tmp_path / 'captions.json').write_text(json.dumps({'b.png': TEXT}, ensure_ascii=False), encoding)
  (tmp_path / 'captions.jsonl').write_text('\n' + json.dumps(
      {'file': 'c.png', 'caption': TEXT}, ensure_ascii=False) + '\n', encoding)
  assert texts_of(tmp_path) == {f'{name}.png': (TEXT,) for name in 'abc'}
  (tmp_path / 'table.csv').write_text(f'image,prompt\na.png,"{TEXT}"\n', encoding)
  (tmp_path / 'table.jsonl').write_bytes((tmp_path / 'captions.jsonl').read_bytes())
  for kind, name in (('csv', 'table.csv'), ('jsonl', 'table.jsonl')):
    assert open_source(kind, str(tmp_path / name))[0].texts[0].text == TEXT


@pytest.mark.parametrize('data, reason', [
    ('Füße'.encode('latin-1'), r'is not UTF-8, byte 1 is 0xfc; save it as UTF-8'),
    ('cat'.encode('utf-16-le'), 'holds zero bytes, as UTF-16 without a byte order mark does'),
    ('cat'.encode('utf-16')[:-1], 'is not UTF-16, byte 6 is 0x74'),
])
def test_another_encoding_is_named(data, reason, tmp_path):
  put(tmp_path, 'a.png')
  (tmp_path / 'a.txt').write_bytes(data)
  with pytest.raises(RecordError, match=f'^{tmp_path}/a.txt: {reason}'):
    open_source('folder', str(tmp_path))[0]
  result = commands.inspect(Opening(path=str(tmp_path)))
  assert list(result['bad']) == [str(tmp_path / 'a.txt')]
  for name in ('t.jsonl', 't.json', 't.csv'):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f'^{tmp_path}/{name}'):
      open_source('auto', str(tmp_path / name))


def test_half_a_surrogate_pair_is_no_text(tmp_path):
  put(tmp_path, 'a.png')
  (tmp_path / 't.jsonl').write_text('{"file": "a.png", "caption": "a \\ud83d cat"}')
  with pytest.raises(UserError, match=r"t.jsonl:1: caption: holds '\\ud83d', half of a surrogate"):
    open_source('jsonl', str(tmp_path / 't.jsonl'))


@pytest.mark.parametrize('spelt', [
    'deep/Füße.png', './deep/Füße.png', 'deep//x/../Füße.png', 'deep\\Füße.png',
    unicodedata.normalize('NFD', 'deep/Füße.png'), '{root}/deep/Füße.png',
    '/home/someone/photos/deep/Füße.png', 'C:\\photos\\deep\\Füße.png'])
@pytest.mark.parametrize('form', ['NFC', 'NFD'])
@pytest.mark.parametrize('table', ['captions.jsonl', 'captions.json'])
def test_a_path_is_known_in_every_spelling(spelt, form, table, tmp_path):
  name = unicodedata.normalize(form, 'deep/Füße.png')
  put(tmp_path, name)
  spelt = spelt.replace('{root}', str(tmp_path))
  entry = {spelt: 'feet'} if table == 'captions.json' else {
      'file': spelt, 'id': 'number 7', 'caption': 'feet'}
  (tmp_path / table).write_text(json.dumps(entry))
  assert texts_of(tmp_path) == {name: ('feet',)}


def test_text_files_of_any_case_and_unicode_form(tmp_path):
  put(tmp_path, 'a.PNG', unicodedata.normalize('NFD', 'ü.png'), 'x.y.png')
  (tmp_path / 'a.TXT').write_text('one')
  (tmp_path / 'ü.Txt').write_text('two')
  (tmp_path / 'x.y.txt').write_text('three')
  assert sorted(texts_of(tmp_path).values()) == [('one',), ('three',), ('two',)]
  (tmp_path / 'a.txt').write_text('other')
  with pytest.raises(UserError, match='a.(txt|TXT): and a.(TXT|txt) are captions of the same'):
    texts_of(tmp_path)


def test_several_captions_of_an_image_are_paraphrases(tmp_path):
  put(tmp_path, 'a.png', 'b.png')
  (tmp_path / 'captions.jsonl').write_text('\n'.join(
      json.dumps({'file': file, 'caption': caption}) for file, caption in (
          ('a.png', 'one'), ('./a.png', ['two', 'one']), ('a.png', 'one'))))
  (tmp_path / 'captions.json').write_text('{"b.png": "first", "b.png": ["second", "third"]}')
  assert texts_of(tmp_path) == {'a.png': ('one', 'two'), 'b.png': ('first', 'second', 'third')}


def test_what_belongs_to_no_image_is_counted_and_named(tmp_path, caplog):
  put(tmp_path, 'a.png', 'b.png')
  (tmp_path / 'notes.txt').write_text('a text')
  (tmp_path / 'c.heic').write_bytes(b'')
  for name in ('one.csv', 'two.csv'):  # neither is taken for the table of the folder
    (tmp_path / name).write_text('image,caption\na.png,one\n')
  (tmp_path / 'captions.jsonl').write_text('\n'.join(map(json.dumps, (
      {'file': 'a.png', 'caption': 'one'}, {'file': 'gone.png', 'caption': 'two'},
      {'file': 'b.png', 'text': 'three'}))))
  assert texts_of(tmp_path) == {'a.png': ('one',), 'b.png': ()}
  told = '\n'.join(record.getMessage() for record in caplog.records)
  for line in ('left out 1 entries of .*captions.jsonl without such an image: gone.png',
               'left out 1 entries of .*captions.jsonl without a "caption": b.png',
               'left out 1 text files beside no image of their name: notes.txt',
               'left out 1 images of formats that are not read; convert them: c.heic',
               'left out 2 tables, of which kind auto takes one alone; .*: one.csv, two.csv'):
    assert re.search(line, told), line
  (tmp_path / 'captions.jsonl').write_text('{"file": "photos/a.png", "caption": "one"}')
  with pytest.raises(UserError, match='captions.jsonl = 1: entries, none of which names an image'):
    texts_of(tmp_path)


def test_what_is_walked_over_in_a_folder(tmp_path, caplog):
  put(tmp_path, 'a.png', '._a.png', '.hidden/x.png', '__MACOSX/._a.png', '__MACOSX/b.png',
      '@eaDir/a.png/thumb.png', 'd.jpg/e.jfif', 'f.avif.png')
  os.symlink(tmp_path, tmp_path / 'd.jpg/loop')
  os.symlink('itself', tmp_path / 'itself')
  os.symlink(tmp_path / 'd.jpg', tmp_path / 'aa')
  os.mkfifo(tmp_path / 'pipe.png')
  latin = os.fsencode(tmp_path) + b'/f\xfc.png'
  with open(latin, 'wb') as file:
    file.write((tmp_path / 'a.png').read_bytes())
  for kind in ('auto', 'folder'):
    found = open_source(kind, str(tmp_path))
    assert [found[index].id for index in range(len(found))] == [
        'a.png', 'd.jpg/e.jfif', 'f.avif.png']
  told = '\n'.join(record.getMessage() for record in caplog.records)
  assert r'left out 1 names that are not UTF-8: f\udcfc.png' in told
  assert 'left out 2 folders that a link leads to again' in told


def test_a_folder_of_images_that_are_not_read_says_so(tmp_path):
  (tmp_path / 'a.HEIC').write_bytes(b'')
  with pytest.raises(UserError, match='nothing known in it: .*; convert the images of .heic'):
    open_source('auto', str(tmp_path))


def test_hidden_tables_and_tars_are_no_data(tmp_path):
  put(tmp_path, 'a.png')
  (tmp_path / 'metadata.jsonl').write_text('{"file": "a.png", "caption": "x"}')
  (tmp_path / '._metadata.jsonl').write_bytes(b'\x00\x05\x16\x07')
  assert open_source('auto', str(tmp_path))[0].texts[0].text == 'x'
  for suffix in ('tar', 'arrayrecord', 'parquet'):
    (tmp_path / f'._a.{suffix}').write_bytes(b'\x00\x05\x16\x07')
    with pytest.raises(UserError, match='no file matches|no .* file'):
      open_source(suffix, f'{tmp_path}/*.{suffix}')
