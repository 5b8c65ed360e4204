"""Broken records and missing captions: counted, named, and never passed over in silence."""

import json

import pytest

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader


@pytest.fixture
def spoil(folder, tmp_path):
  """Copies the 20 samples, cutting some files short."""
  def make(bad):
    for index in range(20):
      data = (folder / f'{index:02d}.png').read_bytes()
      (tmp_path / f'{index:02d}.png').write_bytes(data[:90] if index in bad else data)
    return tmp_path
  return make


def test_broken_file_is_skipped_named_and_replaced(spoil, make_config, layout, caplog):
  path = spoil({3})
  config = make_config({'a': source('folder', 'image', path=str(path))}, max_bad_share=0.1)
  for _ in range(2):  # the same every time
    loader = make_loader(config, layout)
    names = [name for _ in range(15) for (name,) in next(loader).ids]
    skipped = loader.report()['skipped']
    loader.close()
    assert len(names) == 60
    assert set(names) == {f'{index:02d}.png' for index in range(20) if index != 3}
    assert list(skipped) == [str(path / '03.png')]
  assert sum('03.png' in record.message for record in caplog.records) == 2  # once for each loader


def test_skipping_survives_a_resume(spoil, make_config, layout):
  config = make_config({'a': source('folder', 'image', path=str(spoil({3, 8})))}, max_bad_share=0.2)
  straight = make_loader(config, layout)
  ids = [next(straight).ids for _ in range(12)]
  straight.close()
  for step in (3, 6):
    first, second = make_loader(config, layout), make_loader(config, layout)
    for _ in range(step):
      next(first)
    second.restore(first.state(), step)
    assert [next(second).ids for _ in range(12 - step)] == ids[step:]
    first.close()
    second.close()


def test_too_many_broken_files_stop_the_run(spoil, make_config, layout):
  config = make_config({'a': source('folder', 'image', path=str(spoil({3, 4, 5})))},
                       max_bad_share=0.1)
  loader = make_loader(config, layout)
  with pytest.raises(UserError, match=r'^config.data.sources.a.path: 3 of 20 records cannot be '
                                      r'decoded, .*bad_share = 0.1 .*: .*0[345]\.png') as caught:
    for _ in range(10):
      next(loader)
  assert '\n' not in str(caught.value)
  loader.close()


def test_nothing_but_broken_files(spoil, make_config, layout):
  config = make_config({'a': source('folder', 'image', path=str(spoil(set(range(20)))))},
                       max_bad_share=1.0)
  loader = make_loader(config, layout)
  with pytest.raises(UserError, match='20 of 20 records cannot be decoded'):
    next(loader)
  loader.close()


def test_missing_file_of_a_list_counts_as_broken(folder, tmp_path, make_config, layout):
  lines = [json.dumps({'file': str(folder / f'{index:02d}.png')[1:]}) for index in range(3)]
  path = tmp_path / 'list.jsonl'
  path.write_text('\n'.join(lines))
  loader = make_loader(make_config({'a': source('jsonl', 'image', path=str(path))}), layout)
  with pytest.raises(UserError, match=r'list.jsonl:\d \(no such file\)'):
    next(loader)
  loader.close()


@pytest.mark.parametrize('task', ['pair', 'caption'])
@pytest.mark.parametrize('caption', [None, '  '])
def test_missing_caption_names_file_and_line(task, caption, folder, tmp_path, make_config, layout):
  (tmp_path / '00.png').write_bytes((folder / '00.png').read_bytes())
  path = tmp_path / 'list.jsonl'
  path.write_text('\n' + json.dumps({'file': '00.png', 'caption': caption}))
  loader = make_loader(make_config({'a': source('jsonl', task, path=str(path))}), layout)
  with pytest.raises(UserError, match=rf'^{path}:2: caption: missing'):
    next(loader)
  loader.close()


def test_long_caption_names_file_and_line(folder, tmp_path, make_config, layout):
  (tmp_path / '00.png').write_bytes((folder / '00.png').read_bytes())
  path = tmp_path / 'list.jsonl'
  path.write_text(json.dumps({'file': '00.png', 'caption': 'word ' * 99}))
  loader = make_loader(make_config({'a': source('jsonl', 'pair', path=str(path))}), layout)
  with pytest.raises(UserError, match=rf'^{path}:1: caption: the prompt has \d+ tokens'):
    next(loader)
  loader.close()


def test_samples_of_several_images_are_refused(folder, tmp_path, make_config, layout):
  path = tmp_path / 'list.jsonl'
  path.write_text(json.dumps({'id': 'edit', 'parts': [
      {'image': 'a.png', 'role': 'source'}, {'image': 'b.png', 'role': 'target'}]}))
  loader = make_loader(make_config({'a': source('jsonl', 'image', path=str(path))}), layout)
  with pytest.raises(UserError, match=rf'^{path}:1 = 2: task image takes samples of exactly one'):
    next(loader)
  loader.close()
