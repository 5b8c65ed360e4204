"""What recipes read: files with their licences, rows of any table, samples with their lineage."""

import csv
import json
import os

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.curation import readers
from jaxgen.curation.commands import curate
from jaxgen.curation.engine import Job
from jaxgen.data.archive import write_archive
from jaxgen.data.sample import pair
from jaxgen.data.sources import open_source

ROWS = [dict(id='a', text='one', url='http://x/a', licence='MIT'), dict(id='b', text='two')]


def test_files_have_the_licences_that_stand_beside_them(tmp_path):
  for name in ('b.mp4', 'sub/a.MKV', '.hidden.mp4', 'notes.txt'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'x')
  (tmp_path / 'sources.jsonl').write_text(json.dumps(dict(
      file='sub/a.MKV', url='http://x', licence='CC0-1.0', caption='a cat')))
  found = list(readers.files(*readers.VIDEOS)(str(tmp_path)))
  assert [record.id for record in found] == ['b.mp4', 'sub/a.MKV']
  assert found[0].lineage.licence == 'unknown' and found[0].lineage.url == ''
  assert (found[1].lineage.licence, found[1].lineage.url) == ('CC0-1.0', 'http://x')
  assert found[1]['caption'] == 'a cat' and os.path.exists(found[1]['path'])
  single, = readers.files('.mp4')(str(tmp_path / 'b.mp4'))
  assert single.id == 'b.mp4'


@pytest.mark.parametrize('kind', ['jsonl', 'json', 'csv', 'parquet'])
def test_rows_of_any_table(tmp_path, kind):
  file = tmp_path / f'table.{kind}'
  if kind == 'jsonl':
    file.write_text('\n'.join(map(json.dumps, ROWS)))
  elif kind == 'json':
    file.write_text(json.dumps(ROWS))
  elif kind == 'parquet':
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
  else:
    with file.open('w', newline='') as stream:
      writer = csv.DictWriter(stream, ROWS[0])
      writer.writeheader()
      writer.writerows(ROWS)
  first, second = readers.rows(str(file))
  assert (first.id, first['text'], first.lineage.licence, first.lineage.url) == (
      'a', 'one', 'MIT', 'http://x/a')
  assert (second.id, second['text'], second.lineage.licence) == ('b', 'two', 'unknown')


def test_pictures_of_a_table_are_read(tmp_path):
  """Files beside the table or bytes in it; one that is not there is a record that is broken."""
  image = to_png(np.zeros((4, 6, 3), np.uint8))
  (tmp_path / 'a.png').write_bytes(image)
  rows = [dict(image='a.png', mask=dict(bytes=image, path=None), object='mug'),
          dict(image='gone.png', mask=dict(bytes=image, path=None)),
          dict(image='a.png', mask=None)]
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'in.parquet')
  found = readers.pictures('image', 'mask')(str(tmp_path / 'in.parquet'))
  assert (found[0]['image'], found[0]['mask'], found[0]['object']) == (image, image, 'mug')
  for index, column in ((1, 'image'), (2, 'mask')):
    with pytest.raises(RecordError, match=f'{column}: must be one image'):
      found[index]


def test_other_files_are_no_tables(tmp_path):
  (tmp_path / 'a.txt').write_text('x')
  with pytest.raises(UserError, match='no table; use one of csv, json, jsonl, parquet'):
    readers.rows(str(tmp_path / 'a.txt'))


def test_curated_samples_keep_their_lineage_in_the_next_recipe(tmp_path):
  (tmp_path / 'first.py').write_text('''
from jaxgen.curation import readers
from jaxgen.curation.recipe import Recipe, Stage

def kept(record):
  return record.noting(seen=True)

def get_recipe():
  return Recipe(readers.samples(), [Stage(kept)])
''')
  image = np.zeros((8, 8, 3), np.uint8)
  write_archive([pair(name, image, name) for name in 'ab'], str(tmp_path / 'in'))
  recipe = str(tmp_path / 'first.py')
  curate(Job(recipe, str(tmp_path / 'in'), str(tmp_path / 'one'), licence='MIT'))
  curate(Job(recipe, str(tmp_path / 'one'), str(tmp_path / 'two'), licence='other'))
  sample = open_source('arrayrecord', str(tmp_path / 'two'))[0]
  assert sample.lineage['licence'] == 'MIT' and sample.lineage['notes'] == {'seen': True}
  assert sample.texts[0].text == 'a'


@pytest.mark.parametrize('path', ['none', 'empty'])
def test_nothing_to_read_is_named(tmp_path, path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'r.py').write_text('''
from jaxgen.curation import readers
from jaxgen.curation.recipe import Recipe, Stage

def get_recipe():
  return Recipe(readers.files('.mp4'), [Stage(lambda record: record)])
''')
  with pytest.raises(UserError, match='--in = '):
    curate(Job(str(tmp_path / 'r.py'), str(tmp_path / path), str(tmp_path / 'out')))
  assert not (tmp_path / 'out').exists()
