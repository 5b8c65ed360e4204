"""Tars: any member by offset, from any thread; indexes kept and renewed; damage named by shard."""

import concurrent.futures
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data.archive import write_archive
from jaxgen.data.decode import decode
from jaxgen.data.sources import open_source
from jaxgen.data.sources import tar as tars


def picture(seed, form='PNG'):
  buffer = io.BytesIO()
  pixels = np.random.default_rng(seed).integers(0, 255, (6, 7, 3), np.uint8)
  Image.fromarray(pixels).save(buffer, form)
  return buffer.getvalue()


def write(path, members):
  with tarfile.open(path, 'w') as tar:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return path


def shards(root, count=3, each=40):
  for shard in range(count):
    members = []
    for index in range(each):
      members += [(f'{index:06d}.png', picture(shard * each + index)),
                  (f'{index:06d}.txt', f'caption {shard} {index}\n'.encode())]
    write(root / f'data_{shard:06d}.tar', members)
  return root


def test_every_sample_from_many_threads(tmp_path):
  found = open_source('tar', f'{shards(tmp_path)}/data_{{000000..000002}}.tar')
  assert len(found) == 120
  order = np.random.default_rng(0).permutation(np.repeat(np.arange(120), 4)).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    samples = list(pool.map(found.__getitem__, order))
  for index, sample in zip(order, samples):
    assert sample.texts[0].text == f'caption {index // 40} {index % 40}'
    assert sample.images[0].image == picture(index)
    assert sample.id == f'data_{index // 40:06d}/{index % 40:06d}'
  with pytest.raises(IndexError):
    found[120]


def test_folder_glob_and_braces_are_the_same_files(tmp_path):
  shards(tmp_path, each=2)
  (tmp_path / 'README.md').write_text('no tar')
  ways = [open_source(kind, f'{tmp_path}{rest}') for kind, rest in (
      ('tar', ''), ('auto', ''), ('tar', '/data_*.tar'), ('auto', '/data_{000000..000002}.tar'))]
  ids = [[way[index].id for index in range(len(way))] for way in ways]
  assert len(ids[0]) == 6 and all(found == ids[0] for found in ids)
  assert len(open_source('tar', f'{tmp_path}/data_{{000000,000002}}.tar')) == 4


@pytest.mark.parametrize('form, suffix', [('JPEG', 'jpg'), ('PNG', 'png'), ('WEBP', 'webp'),
                                          ('JPEG', 'JPEG')])
@pytest.mark.parametrize('text', [
    ('txt', b'a cat\n'), ('json', json.dumps({'prompt': 'a cat', 'width': 7}).encode()),
    ('json', json.dumps({'caption': 'a cat'}).encode()), ('cls', b'3'), None])
def test_members_of_a_sample(form, suffix, text, tmp_path):
  image = picture(0, form)
  members = [(f'./deep/a.b.{suffix}', b'kept under a longer suffix'), (f'./deep/x.{suffix}', image)]
  members += [(f'./deep/x.{text[0]}', text[1])] if text else []
  path = write(tmp_path / 'a.tar', members[1:] + [('._x.png', b'junk')])
  found = open_source('tar', str(path))
  assert len(found) == 1 and found[0].images[0].image == image and found[0].id == 'a/deep/x'
  expected = [] if text is None else ['3' if text[0] == 'cls' else 'a cat']
  assert [part.text for part in found[0].texts] == expected


def test_fields_name_members_of_edits(tmp_path):
  path = write(tmp_path / 'a.tar', [
      ('x.in.png', picture(0)), ('x.out.webp', picture(1, 'WEBP')),
      ('x.json', json.dumps({'edit': {'texts': ['one', 'two']}}).encode())])
  sample = open_source('tar', str(path), fields={
      'source': 'in.png', 'target': 'out.webp', 'instruction': 'json.edit.texts'})[0]
  assert [part.role for part in sample.parts] == ['source', 'user', 'target']
  assert sample.images[0].image == picture(0) and sample.texts[0].variants == ('one', 'two')
  with pytest.raises(UserError, match='fields.source = .in.jpg.: no such column.*in.png, json'):
    open_source('tar', str(path), fields={'source': 'in.jpg', 'target': 'out.webp'})


def test_the_index_is_kept_and_renewed(tmp_path, monkeypatch):
  path = write(tmp_path / 'a.tar', [('x.png', picture(0)), ('x.txt', b'old')])
  assert open_source('tar', str(path))[0].texts[0].text == 'old'
  assert (tmp_path / 'a.tar.index.npz').exists()
  walked = []
  members = tars._members
  monkeypatch.setattr(tars, '_members', lambda path: walked.append(path) or members(path))
  assert open_source('tar', str(path))[0].texts[0].text == 'old' and not walked
  write(path, [('pad.txt', b''), ('y.png', picture(1)), ('y.txt', b'new'), ('z.txt', b'more')])
  os.utime(path, (1, 1))
  assert open_source('tar', str(path), limit=9, fields={'caption': 'txt', 'context': 'png'}
                     )[1].texts[0].text == 'new' and walked
  (tmp_path / 'a.tar.index.npz').write_bytes(b'rubbish')
  assert len(open_source('tar', str(path), fields={'caption': 'txt', 'context': 'png'})) == 3


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
  path = write(tmp_path / 'a.tar', [('x.png', picture(0))])

  def refuse(*args):
    raise PermissionError('read-only file system')
  monkeypatch.setattr(os, 'replace', refuse)
  assert len(open_source('tar', str(path))) == 1
  assert [file.name for file in tmp_path.iterdir()] == ['a.tar']


@pytest.mark.parametrize('cut', [0, 1, 700, 4096, 10240, 20000])
def test_truncation_is_one_error_that_names_the_shard(cut, tmp_path):
  shards(tmp_path)
  path = tmp_path / 'data_000001.tar'
  whole = path.read_bytes()
  end = whole.rindex(b'caption 1 39') + 512
  path.write_bytes(whole[:end - cut])
  with pytest.raises(UserError, match=rf'^{path}: is truncated') as caught:
    open_source('tar', str(tmp_path))
  assert '\n' not in str(caught.value)


def test_a_compressed_tar_is_refused(tmp_path):
  with tarfile.open(tmp_path / 'a.tar', 'w:gz') as tar:
    tar.addfile(tarfile.TarInfo('x.png'))
  with pytest.raises(UserError, match='not an uncompressed tar'):
    open_source('tar', str(tmp_path / 'a.tar'))


def test_tars_are_packed_with_all_images(tmp_path):
  path = write(tmp_path / 'a.tar', [
      member for name in 'xyz' for member in (
          (f'{name}.1.png', picture(1)), (f'{name}.2.png', picture(2)),
          (f'{name}.out.png', picture(3) if name != 'y' else picture(3)[:60]),
          (f'{name}.json', json.dumps(['one', 'two']).encode()))])
  found = open_source('tar', str(path), fields={
      'reference': ('1.png', '2.png'), 'instruction': 'json', 'target': 'out.png'})
  archive = write_archive(found, str(tmp_path / 'out'))
  assert archive.samples == 2 and list(archive.skipped) == [f'{path}: y']
  assert archive.skipped[f'{path}: y'].startswith('image 3 of 3: ')
  packed = open_source('auto', str(tmp_path / 'out'))
  for index, original in enumerate((found[0], found[2])):
    assert packed[index].parts == original.parts and packed[index].id == original.id
  assert decode(packed[1].targets[0].image).shape == (6, 7, 3)
