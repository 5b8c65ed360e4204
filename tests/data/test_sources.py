"""Sources: one set of samples in four containers is one set of batches; bad paths are one line."""

import json

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.data.archive import write_archive
from jaxgen.data.loader import make_loader
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
  write_archive(open_source('jsonl', str(folder / 'samples.jsonl')), str(root / 'packed'), shards=3)
  builder = Twenty(folder, data_dir=str(root))
  builder.download_and_prepare()
  return {'folder': str(folder), 'jsonl': str(folder / 'samples.jsonl'),
          'arrayrecord': str(root / 'packed'), 'tfds': str(builder.data_path)}


def batches(config, layout, count=6):
  loader = make_loader(config, layout)
  found = [next(loader) for _ in range(count)]
  loader.close()
  return found


@pytest.mark.parametrize('kind', ['jsonl', 'arrayrecord', 'tfds'])
def test_containers_give_identical_batches(kind, containers, make_config, layout):
  def load(kind):
    config = make_config({'s': source(kind, 'pair', path=containers[kind])})
    return batches(config, layout)
  for one, other in zip(load(kind), load('folder')):
    assert one.ids == other.ids
    jax.tree.map(np.testing.assert_array_equal, one.batch, other.batch)
    jax.tree.map(np.testing.assert_array_equal, one.images, other.images)


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
    ('arrayrecord', lambda p: p / 'x-*.arrayrecord', 'no .arrayrecord file'),
    ('arrayrecord', lambda p: _file(p / 'a.arrayrecord', 'rubbish'), 'not ArrayRecord'),
    ('tfds', lambda p: p, 'no TFDS data set'),
    ('tfds', lambda p: 'no_such_builder', 'no TFDS data set'),
    ('parquet', lambda p: p, 'unknown kind'),
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
