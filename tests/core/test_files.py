"""Files and folders are written whole or not at all, and what is damaged is named in one line."""

import concurrent.futures
import json
import os
import resource

import pytest
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.core.files import append_line
from jaxgen.core.files import check_new
from jaxgen.core.files import check_place
from jaxgen.core.files import is_hub_id
from jaxgen.core.files import new_folder
from jaxgen.core.files import placed
from jaxgen.core.files import read_json
from jaxgen.core.files import read_lines
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.files import writing


@pytest.fixture
def full_disk():
  """Files end at 1000 bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_replaced_or_stays_as_it_was(tmp_path, full_disk):
  file = tmp_path / 'new' / 'file'
  write_text(file, 'ä')
  assert file.read_bytes() == 'ä'.encode()
  with pytest.raises(UserError, match='new/file: could not be written .File too large.'):
    write_bytes(file, bytes(2000))
  assert file.read_bytes() == 'ä'.encode() and os.listdir(tmp_path / 'new') == ['file']
  with pytest.raises(UserError, match='could not be written .a file is in the place of a folder.'):
    write_text(file / 'below', '')


def test_many_may_write_one_file(tmp_path):
  """As recipes do that ask a model the same in several threads."""
  file, texts = tmp_path / 'file', [str(digit) * 100_000 for digit in range(8)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for _ in pool.map(lambda text: [write_text(file, text) for _ in range(20)], texts):
      pass
  assert file.read_text() in texts and os.listdir(tmp_path) == ['file']


def test_a_folder_appears_when_it_is_whole(tmp_path, full_disk):
  for empty in (tmp_path / 'a', tmp_path / 'b'):
    with new_folder(str(empty)) as partial:
      write_text(partial / 'file', 'x')
      assert not (empty / 'file').exists()
    assert (empty / 'file').read_text() == 'x'
    (tmp_path / 'b').mkdir(exist_ok=True)
  with pytest.raises(UserError, match='c: could not be written .File too large.'):
    with new_folder(str(tmp_path / 'c')) as partial:
      (partial / 'file').write_bytes(bytes(2000))
  with pytest.raises(KeyError):  # a defect stays one
    with new_folder(str(tmp_path / 'c')):
      raise KeyError('a')
  assert sorted(os.listdir(tmp_path)) == ['a', 'b']


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_what_is_placed_replaces_what_was_there(tmp_path, kind):
  """Also what a killed process has left; where nothing is made, nothing changes."""
  target = epath.Path(tmp_path / 'new' / 'x')

  def write(path, text):
    if kind == 'folder':
      path.mkdir()
    (path / 'inner' if kind == 'folder' else path).write_text(text)

  for text in ('one', 'two'):
    with placed(target) as partial:
      write(partial, text)
    assert (target / 'inner' if kind == 'folder' else target).read_text() == text
  with placed(target):
    pass
  with pytest.raises(KeyError):
    with placed(target) as partial:
      write(partial, 'half')
      raise KeyError('a')
  assert (target / 'inner' if kind == 'folder' else target).read_text() == 'two'
  with placed(target) as partial:
    write(partial, 'three')
  assert (target / 'inner' if kind == 'folder' else target).read_text() == 'three'
  assert os.listdir(tmp_path / 'new') == ['x']


@pytest.mark.parametrize('check, path, message', [
    (check_new, 'full', 'not empty; choose another --out'),
    (check_new, 'file', 'exists; choose another --out'),
    (check_new, 'file/x/y', 'could not be written .a file is in the place of a folder.'),
    (check_place, 'file', 'could not be written .a file is in the place of a folder.'),
    (check_place, 'file/x', 'could not be written .a file is in the place of a folder.'),
    (check_place, '/proc/jaxgen/x', 'could not be written'),
])
def test_places_are_checked_before_the_work(tmp_path, check, path, message):
  (tmp_path / 'full').mkdir()
  for name in ('file', 'full/file'):
    (tmp_path / name).write_text('')
  (tmp_path / 'dangling').symlink_to('nowhere')
  with pytest.raises(UserError, match=message):
    check(str(tmp_path / path))
  for free in ('new/a/b', 'full'):
    check_place(str(tmp_path / free))
  check_new(str(tmp_path / 'new/a'))
  assert sorted(os.listdir(tmp_path)) == ['dangling', 'file', 'full']


def test_what_a_library_says_of_a_full_disk_counts_too():
  for deep in (ValueError('Error writing "a": No space left on device [error code]'),
               RuntimeError('Permission denied')):
    with pytest.raises(UserError, match='^--out = .o.: could not be written .* make room'):
      with writing('--out', 'o', 'make room'):
        try:
          raise deep
        except Exception as error:
          raise RuntimeError('save failed') from error


@pytest.mark.parametrize('data', [b'', b'{"a": 1', b'\0\0\0', b'[1]', b'\xff\xfe', b'[' * 10**5, None])
def test_damaged_json_is_named(tmp_path, data):
  file = tmp_path / 'a.json'
  if data is not None:
    file.write_bytes(data)
  with pytest.raises(UserError, match='a.json: damaged .*; copy it') as error:
    read_json(file, 'copy it')
  assert '\n' not in str(error.value)


def test_lines_of_a_file_that_was_cut(tmp_path, capsys):
  lines = [dict(step=step, loss=None) for step in range(3)]
  whole = ''.join(json.dumps(line) + '\n' for line in lines).encode()
  file = epath.Path(tmp_path / 'a.jsonl')
  needed = {'step': int, 'loss': (float, type(None))}
  assert read_lines(file, needed) == []
  for length in range(len(whole) + 1):
    file.write_bytes(whole[:length])
    found = read_lines(file, needed)
    assert found == lines[:len(found)] and len(found) >= whole[:length].count(b'\n')
  assert capsys.readouterr().err == ''
  file.write_bytes(b'\0\0\n{"step": 1}\n"x"\n' + whole)
  assert read_lines(file, needed) == lines
  assert 'a.jsonl: 3 damaged lines are left out' in capsys.readouterr().err


def test_names_of_the_hub():
  assert all(map(is_hub_id, ('OpenGVLab/InternVL3-2B-hf', 'a/b', 'Qwen/Qwen2.5-VL')))
  assert not any(map(is_hub_id, ('runs/tok', 'tests/tok', './a', '/a', 'a', 'a/b/c', 'a/', '~/a')))


def test_a_line_is_added_after_one_that_was_cut(tmp_path):
  file = tmp_path / 'folder' / 'lines.jsonl'
  append_line(file, '{"number": 1}')
  with file.open('a') as stream:
    stream.write('{"numb')  # a process that was killed
  for number in (2, 3):
    append_line(file, f'{{"number": {number}}}')
  assert file.read_text().splitlines() == ['{"number": 1}', '{"numb', '{"number": 2}',
                                           '{"number": 3}']
