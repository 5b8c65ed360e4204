"""Tables: fields of any name and depth, wordings, bounded memory, errors that name the place."""

import concurrent.futures
import io
import json

import numpy as np
import pyarrow
import pytest
from etils import epath
from PIL import Image
from pyarrow import parquet

from jaxgen.core.errors import UserError
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import draw_variant
from jaxgen.data.sources import open_source
from jaxgen.data.sources.parquet import Kept
from jaxgen.data.sources.parquet import ParquetTable


def picture(seed=0):
  buffer = io.BytesIO()
  pixels = np.random.default_rng(seed).integers(0, 255, (6, 7, 3), np.uint8)
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


@pytest.fixture
def images(tmp_path):
  for name in 'abcd':
    (tmp_path / f'{name}.png').write_bytes(picture(ord(name)))
  return tmp_path


def write_lines(path, rows):
  path.write_text('\n'.join(map(json.dumps, rows)))
  return str(path)


def write_parquet(path, rows, **options):
  parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
  return str(path)


FIELDS = (('target', 'edited image'), ('source', 'files.original'), ('instruction', 'edit prompt'),
          ('id', 'meta.key'), ('context', 'extra'))
ROW = {'edited image': 'b.png', 'files': {'original': 'a.png'}, 'edit prompt': 'redden',
       'meta': {'key': 5}, 'extra': ['c.png', 'd.png']}


@pytest.mark.parametrize('kind, write', [
    ('jsonl', write_lines), ('parquet', write_parquet),
    ('json', lambda path, rows: path.write_text(json.dumps(rows)) and str(path))])
def test_fields_reach_spaces_structs_and_lists(kind, write, images):
  path = write(images / f't.{kind}', [ROW, {**ROW, 'extra': None}])
  found = open_source(kind, path, fields=FIELDS)
  assert [part.role for part in found[0].parts] == ['context', 'context', 'source', 'user',
                                                    'target']
  assert [part.image.path for part in found[0].images] == [
      f'{images}/{name}.png' for name in 'cdab']
  assert found[0].id == '5' and found[0].texts[0].text == 'redden' and len(found[1].images) == 2


def test_csv_with_quotes_spaces_and_empty_cells(images):
  (images / 't.csv').write_text('\ufefffile name,aesthetic score,caption\r\n'
                                'a.png,5,"two, and\nlines"\r\nb.png,6,\r\n', newline='')
  fields = {'target': 'file name', 'caption': 'caption'}
  found = open_source('csv', str(images / 't.csv'), fields=fields)
  assert found[0].texts[0].text == 'two, and\nlines' and not found[1].texts
  (images / 't.tsv').write_text('file name\tcaption\na.png\tone, two\n')
  assert open_source('auto', str(images / 't.tsv'), fields=fields)[0].texts[0].text == 'one, two'
  (images / 't.csv').write_text('file name,caption\na.png,one, two\n')
  with pytest.raises(UserError, match=r't.csv:2 = .*more cells than the header'):
    open_source('csv', str(images / 't.csv'), fields=fields)


@pytest.mark.parametrize('value', [
    ['one', 'two'], {'short': 'one', 'long': 'two'}, '["one", "two"]',
    json.dumps({'short': 'one', 'long': 'two'}), json.dumps({'short': ['one'], 'long': ['two']})])
def test_paraphrases_are_variants_one_of_which_is_drawn(value, images):
  path = write_lines(images / 't.jsonl', [{'i': 'a.png', 'c': value}])
  sample = open_source('jsonl', path, fields={'target': 'i', 'caption': 'c'})[0]
  assert sample.texts[0].text == 'one' and sample.texts[0].variants == ('one', 'two')
  drawn = [draw_variant(sample, number) for number in range(4)]
  assert [one.texts[0].text for one in drawn] == ['one', 'two', 'one', 'two']
  assert not any(one.texts[0].variants for one in drawn) and drawn[0].images == sample.images


@pytest.mark.parametrize('text', ['[v*] on a table', '{curly', '[1, 2]', '[]', ''])
def test_what_only_looks_like_json_is_a_text(text, images):
  path = write_lines(images / 't.jsonl', [{'i': 'a.png', 'c': text}])
  sample = open_source('jsonl', path, fields={'target': 'i', 'caption': 'c'})[0]
  assert sample.texts[0].text == text and not sample.texts[0].variants


def test_several_columns_are_wordings_and_references(images):
  path = write_lines(images / 't.jsonl', [
      {'i': 'a.png', 'long': 'a long one', 'short': 'short', 'r_1': 'b.png', 'r_2': 'c.png'}])
  sample = open_source('jsonl', path, fields={
      'target': 'i', 'caption': ('long', 'short'), 'reference': 'r_{n}'})[0]
  assert sample.texts[0].variants == ('a long one', 'short')
  assert [part.role for part in sample.images] == ['reference', 'reference', 'target']


@pytest.mark.parametrize('fields, message', [
    ({'target': 'nope'}, r"fields.target = 'nope': no such column in .*; it has caption, image"),
    ({'goal': 'image'}, "fields = 'goal': use one of id, caption"),
    ({'caption': 'caption'}, r"fields = \['caption'\]: name the column of the target image"),
])
def test_wrong_fields(fields, message, images):
  path = write_lines(images / 't.jsonl', [{'image': 'a.png', 'caption': 'x'}])
  with pytest.raises(UserError, match=f'^sources.s.path: {message}'):
    open_source('jsonl', path, fields=fields, field='sources.s.path')


@pytest.mark.parametrize('row, message', [
    ({'i': 'a.png', 'c': {'x': 1.5}}, r't.jsonl:2: c = 1.5: must be a text'),
    ({'i': 3, 'c': 'x'}, r't.jsonl:2: i = 3: must be an image'),
    ({'i': None, 'c': 'x'}, r't.jsonl:2: i: the target image is missing'),
    ({'i': 'https://x.example/a.png', 'c': 'x'}, r't.jsonl:2: i = .*is a URL; download the images'),
])
def test_bad_rows_name_line_and_column(row, message, images):
  path = write_lines(images / 't.jsonl', [{'i': 'a.png', 'c': 'x'}, row])
  with pytest.raises(UserError, match=message):
    open_source('jsonl', path, fields={'target': 'i', 'caption': 'c'})


def test_lines_end_at_newlines_only(images):
  """Other separators of Unicode may stand in a caption."""
  row = json.dumps({'file': 'a.png', 'caption': 'one\u2028two\x85three'}, ensure_ascii=False)
  (images / 't.jsonl').write_text(row + '\r\n\n' + row + '\n', encoding='utf-8', newline='')
  found = open_source('jsonl', str(images / 't.jsonl'))
  assert len(found) == 2 and found[1].texts[0].text == 'one\u2028two\x85three'
  assert found[1].origin.endswith('t.jsonl:3')


def test_root_is_where_paths_start(images, tmp_path_factory):
  path = write_lines(tmp_path_factory.mktemp('else') / 't.jsonl', [
      {'i': '/made/elsewhere/a.png'}, {'i': '/made/elsewhere/b.png'}])
  found = open_source('jsonl', path, fields={'target': 'i'}, root=str(images))
  assert [found[index].images[0].image for index in range(2)] == [
      FileImage(f'{images}/{name}.png') for name in 'ab']
  assert [found[index].id for index in range(2)] == ['a.png', 'b.png']
  with pytest.raises(UserError, match=r'= 2: images that it names are missing.*or set root'):
    open_source('jsonl', path, fields={'target': 'i'})


@pytest.mark.parametrize('image', [
    {'bytes': picture(ord('a')), 'path': 'x.png'}, {'bytes': None, 'path': 'a.png'},
    picture(ord('a')), 'a.png'])
def test_parquet_images_are_bytes_structs_or_paths(image, images):
  path = write_parquet(images / 't.parquet', [{'image': image, 'text': 'x'}])
  found = open_source('auto', path)[0].images[0].image
  data = epath.Path(found.path).read_bytes() if isinstance(found, FileImage) else found
  assert data == picture(ord('a'))


def test_parquet_reads_groups_when_asked_and_keeps_a_few(tmp_path, monkeypatch):
  rows = [{'image': bytes([index]) * 1000, 'text': str(index), 'unread': bytes(10**6)}
          for index in range(40)]
  path = write_parquet(tmp_path / 't.parquet', rows, row_group_size=4)
  reads = []
  read = ParquetTable._read
  monkeypatch.setattr(ParquetTable, '_read', lambda self, group: reads.append(group) or
                      read(self, group))
  kept = Kept(13_000)
  table = ParquetTable(epath.Path(path), kept).only({'image', 'text'})
  assert len(table) == 40 and not reads
  assert [table[index]['text'] for index in (0, 3, 5, 1, 39)] == ['0', '3', '5', '1', '39']
  assert reads == [0, 1, 9] and set(table[0]) == {'image', 'text'}
  for index in range(0, 40, 4):
    assert table[index]['image'] == bytes([index]) * 1000
    held = sum(entry.value.nbytes for entry in kept._entries.values())
    assert held <= 13_000
  reads.clear()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(lambda index: table[index]['text'], [20, 21, 22, 23] * 20)) == [
        '20', '21', '22', '23'] * 20
  assert reads == [5]


def test_parquet_folder_takes_the_split(tmp_path):
  (tmp_path / 'data').mkdir()
  for name, count in (('train-00000-of-00002', 3), ('train-00001-of-00002', 2), ('test-0', 1)):
    write_parquet(tmp_path / f'data/{name}.parquet', [
        {'image': picture(), 'caption': f'{name} {index}'} for index in range(count)])
  found = open_source('auto', str(tmp_path))
  assert [found[index].texts[0].text[-3:] for index in range(5)] == [
      '2 0', '2 1', '2 2', '2 0', '2 1']
  assert len(open_source('parquet', str(tmp_path), split='test')) == 1
  with pytest.raises(UserError, match=r"no files of the split 'validation', only of \['test', 'tr"):
    open_source('parquet', str(tmp_path), split='validation')


def test_a_cut_parquet_file_is_named(tmp_path):
  path = write_parquet(tmp_path / 't.parquet', [{'image': picture(), 'caption': 'x'}])
  data = (tmp_path / 't.parquet').read_bytes()
  (tmp_path / 't.parquet').write_bytes(data[:-20])
  with pytest.raises(UserError, match=f'^{path}: is not a whole parquet file'):
    open_source('auto', path)
