"""Sources: one set of samples in eight containers is one set of samples; bad paths are one line."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
import tensorflow_datasets as tfds
from pyarrow import parquet

from jaxgen.core.errors import UserError
from jaxgen.data.archive import write_archive
from jaxgen.data.decode import decode
from jaxgen.data.sources import open_source


class Twenty(tfds.core.GeneratorBasedBuilder):
  """The samples of a folder as a TFDS data set."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, folder, **kwargs):
    self._folder = folder
    super().__init__(file_format='array_record', **kwargs)

  def _info(self):
    # Without shuffling the records keep the order of the folder.
    return tfds.core.DatasetInfo(builder=self, disable_shuffling=True,
                                 features=tfds.features.FeaturesDict({
                                     'id': tfds.features.Text(), 'image': tfds.features.Image(),
                                     'text': tfds.features.Text()}))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for index, line in enumerate((self._folder / 'samples.jsonl').read_text().splitlines()):
      record = json.loads(line)
      yield index, {'id': record['file'], 'text': record['caption'],
                    'image': str(self._folder / record['file'])}


@pytest.fixture(scope='module')
def containers(folder, tmp_path_factory):
  root = tmp_path_factory.mktemp('containers')
  rows = [json.loads(line) for line in (folder / 'samples.jsonl').read_text().splitlines()]
  write_archive(open_source('jsonl', str(folder / 'samples.jsonl')), str(root / 'packed'), shards=3)
  builder = Twenty(folder, data_dir=str(root))
  builder.download_and_prepare()
  (root / 'rows.json').write_text(json.dumps([
      {'image': str(folder / row['file']), 'prompt': row['caption']} for row in rows]))
  with open(root / 'rows.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerows([('image', 'prompt'), *((row['file'], row['caption']) for row in rows)])
  parquet.write_table(pyarrow.Table.from_pylist([
      {'image': {'bytes': (folder / row['file']).read_bytes(), 'path': row['file']},
       'caption': row['caption'], 'id': row['file']} for row in rows]), root / 'rows.parquet',
      row_group_size=7)
  for shard in range(2):
    with tarfile.open(root / f'data_{shard:03d}.tar', 'w') as tar:
      for row in rows[shard * 10:shard * 10 + 10]:
        for name, data in ((row['file'], (folder / row['file']).read_bytes()),
                           (row['file'][:2] + '.txt', row['caption'].encode() + b'\n')):
          info = tarfile.TarInfo(name)
          info.size = len(data)
          tar.addfile(info, io.BytesIO(data))
  return {'folder': str(folder), 'jsonl': str(folder / 'samples.jsonl'),
          'arrayrecord': str(root / 'packed'), 'tfds': str(builder.data_path),
          'json': str(root / 'rows.json'), 'csv': str(root / 'rows.csv'),
          'parquet': str(root / 'rows.parquet'), 'tar': str(root / 'data_{000..001}.tar')}


@pytest.mark.parametrize('kind', ['jsonl', 'arrayrecord', 'tfds', 'json', 'csv', 'parquet', 'tar'])
@pytest.mark.parametrize('auto', [False, True])
def test_containers_give_identical_samples(kind, auto, containers, folder):
  """Also when the kind is found out from the path."""
  found = open_source('auto' if auto else kind, containers[kind],
                      root=str(folder) if kind == 'csv' else '')
  expected = open_source('folder', containers['folder'])
  assert len(found) == len(expected) == 20
  for one, other in zip((found[index] for index in range(20)),
                        (expected[index] for index in range(20))):
    assert one.id.rpartition('/')[2].removesuffix('.png') == other.id.removesuffix('.png')
    assert one.texts == other.texts
    assert [part.role for part in one.parts] == [part.role for part in other.parts]
    np.testing.assert_array_equal(decode(one.images[0].image), decode(other.images[0].image))


def test_arrayrecord_takes_a_file_and_a_glob(containers):
  packed = containers['arrayrecord']
  one = open_source('arrayrecord', f'{packed}/data-00000-of-00003.arrayrecord')
  assert len(one) == 6 and one[5].id == '05.png'
  assert len(open_source('arrayrecord', f'{packed}/data-*')) == 20


def test_limit_and_order(folder):
  found = open_source('folder', str(folder), limit=3)
  assert [found[index].id for index in range(len(found))] == ['00.png', '01.png', '02.png']
  with pytest.raises(IndexError):
    found[3]


def test_folder_captions_from_jsonl_beat_sidecars_and_may_be_absent(folder, tmp_path):
  for name in ('00.png', '01.png', '02.png'):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  (tmp_path / '00.txt').write_text('sidecar')
  (tmp_path / '01.txt').write_text('sidecar')
  (tmp_path / 'captions.jsonl').write_text('{"file": "00.png", "caption": "listed"}\n')
  found = open_source('folder', str(tmp_path))
  texts = [[part.text for part in found[index].texts] for index in range(3)]
  assert texts == [['listed'], ['sidecar'], []]


def test_folders_below_are_read_too(folder, tmp_path):
  for name in ('b/deep/1.PNG', 'a/2.png', '3.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes((folder / '00.png').read_bytes())
  (tmp_path / 'a/2.txt').write_text('two')
  (tmp_path / 'a/notes.md').write_text('no image')
  found = open_source('folder', str(tmp_path))
  assert [found[index].id for index in range(3)] == ['3.png', 'a/2.png', 'b/deep/1.PNG']
  assert [len(found[index].texts) for index in range(len(found))] == [0, 1, 0]


def test_shapes_are_samples():
  found = open_source('shapes', '', split='test', size=16, seed=5, limit=10)
  assert len(found) == 10 and found[3].images[0].image.shape == (16, 16, 3)
  assert found[3].texts[0].text.startswith('a photo of')


@pytest.mark.parametrize('kind, make, message', [
    ('folder', lambda p: p / 'absent', 'no such file or folder'),
    ('folder', lambda p: p, 'no sample of kind folder'),
    ('folder', lambda p: _file(p / 'a.jsonl', ''), 'is not a folder'),
    ('jsonl', lambda p: p / 'absent.jsonl', 'no such file or folder'),
    ('jsonl', lambda p: p, 'is a folder'),
    ('jsonl', lambda p: _file(p / 'a.jsonl', '\n'), 'no sample of kind jsonl'),
    ('arrayrecord', lambda p: p, 'no .arrayrecord file'),
    ('arrayrecord', lambda p: p / 'x-*.arrayrecord', 'no file matches'),
    ('arrayrecord', lambda p: _file(p / 'a.arrayrecord', 'rubbish'), 'not ArrayRecord'),
    ('tfds', lambda p: p, 'no TFDS data set'),
    ('tfds', lambda p: 'no_such_builder', 'no TFDS data set'),
    ('ftp', lambda p: p, 'unknown kind'),
    ('auto', lambda p: p, 'nothing known in it'),
    ('auto', lambda p: _file(p / 'a.xyz', ''), 'of unknown kind'),
    ('csv', lambda p: p, 'is a folder'),
    ('parquet', lambda p: p, 'no .parquet file'),
    ('tar', lambda p: p / 'x_{0..3}.tar', 'no such file'),
    ('tar', lambda p: p / 'x_*.tar', 'no file matches'),
    ('controls', lambda p: p, 'no folders of targets and controls'),
    ('omniedit', lambda p: p, r'no \*.parquet below it, as omniedit has'),
])
def test_bad_paths(kind, make, message, tmp_path):
  with pytest.raises(UserError, match=f'^config.data.sources.s.path = .*{message}'):
    open_source(kind, str(make(tmp_path)), field='config.data.sources.s.path')


def test_a_damaged_archive_names_the_record(folder, tmp_path):
  write_archive(open_source('folder', str(folder)), str(tmp_path / 'out'))
  path = tmp_path / 'out/data-00000-of-00001.arrayrecord'
  data = bytearray(path.read_bytes())
  at = data.index(b'"id": "07.png"')
  data[at:at + 40] = bytes(40)
  path.write_bytes(data)
  found = open_source('arrayrecord', str(path))
  assert found[6].id == '06.png'
  with pytest.raises(UserError, match=rf'^{path}: record 7: the file is damaged'):
    found[7]


@pytest.mark.parametrize('line, message', [
    ('{"file": "a.png"', 'is not JSON'),
    ('{"caption": "x"}', 'file'),
])
def test_broken_lines_are_found_at_once(line, message, tmp_path):
  path = _file(tmp_path / 'a.jsonl', '{"file": "ok.png"}\n\n' + line)
  with pytest.raises(UserError, match=rf'^{path}:3.*{message}'):
    open_source('jsonl', str(path))


def _file(path, text):
  path.write_text(text)
  return path
