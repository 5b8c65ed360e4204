"""Packing to ArrayRecord: all or nothing, encodings kept, broken files counted by name."""

import errno
import hashlib
import json

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.archive import write_archive
from jaxgen.data.sources import FolderSource
from jaxgen.data.sources import Place
from jaxgen.data.sources import open_source


@pytest.fixture
def spoilt(folder, tmp_path):
  """A copy of five of the samples with one file cut short."""
  root = tmp_path / 'spoilt'
  root.mkdir()
  for index in range(5):
    data = (folder / f'{index:02d}.png').read_bytes()
    (root / f'{index:02d}.png').write_bytes(data[:100] if index == 2 else data)
  return root


def test_bytes_and_order_are_kept(folder, tmp_path):
  source = open_source('folder', str(folder))
  archive = write_archive(source, str(tmp_path / 'out'), shards=4)
  assert archive.samples == 20 and archive.skipped == {}
  packed = open_source('arrayrecord', str(tmp_path / 'out'))
  for index in range(20):
    assert packed[index].id == source[index].id and packed[index].texts == source[index].texts
    assert packed[index].images[0].image == (folder / packed[index].id).read_bytes()


def test_broken_files_are_skipped_named_and_left_alone(spoilt, tmp_path):
  before = {path: hashlib.sha256(path.read_bytes()).digest() for path in spoilt.iterdir()}
  archive = write_archive(open_source('folder', str(spoilt)), str(tmp_path / 'out'))
  assert archive.samples == 4 and list(archive.skipped) == [str(spoilt / '02.png')]
  assert json.loads((tmp_path / 'out/info.json').read_text())['skipped'] == archive.skipped
  assert len(open_source('arrayrecord', str(tmp_path / 'out'))) == 4
  assert before == {path: hashlib.sha256(path.read_bytes()).digest() for path in spoilt.iterdir()}


def test_drawn_arrays_are_stored_without_loss(tmp_path):
  source = open_source('shapes', '', size=16, limit=3)
  write_archive(source, str(tmp_path / 'out'))
  from jaxgen.data.decode import decode
  packed = open_source('arrayrecord', str(tmp_path / 'out'))
  for index in range(3):
    np.testing.assert_array_equal(decode(packed[index].images[0].image),
                                  source[index].images[0].image)


class FullDisk(FolderSource):
  """Reading works, until the disk has no room left."""

  def __getitem__(self, index):
    if index == 3:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return super().__getitem__(index)


def test_a_failure_leaves_nothing_behind(folder, tmp_path):
  with pytest.raises(UserError, match='out: could not be written .No space left on device.'):
    write_archive(FullDisk(Place(str(folder))), str(tmp_path / 'out'))
  assert list(tmp_path.iterdir()) == []


def test_refusals(folder, spoilt, tmp_path):
  source = open_source('folder', str(folder))
  with pytest.raises(UserError, match='not empty; choose another --out'):
    write_archive(source, str(folder))
  for shards in (0, 21):
    with pytest.raises(UserError, match=f'--shards = {shards}: use 1 to 20'):
      write_archive(source, str(tmp_path / 'out'), shards=shards)
  for path in spoilt.iterdir():
    path.write_bytes(b'')
  with pytest.raises(UserError, match='none of the 5 records'):
    write_archive(open_source('folder', str(spoilt)), str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()
