"""Readers of files that others wrote, fed with damaged and absurd ones: a sample or one clear line.

Hypothesis makes the inputs, the same in every run. Each reader gets a few seconds; what is not
tried by then is left out.
"""

import functools
import io
import json
import os
import pathlib
import resource
import signal
import tarfile
import tempfile
import time

import hypothesis
import numpy as np
import pyarrow
import pytest
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from jaxgen.config import base_config
from jaxgen.config import from_json
from jaxgen.conversion.folders import load_folder
from jaxgen.core.errors import UserError
from jaxgen.data import tasks
from jaxgen.data.archive import write_archive
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import decode
from jaxgen.data.decode import image_size
from jaxgen.data.sample import from_bytes
from jaxgen.data.sample import to_bytes
from jaxgen.data.sources import open_source
from jaxgen.sampling.jobs import read_job

SECONDS = 3.0  # for all inputs of a reader
PATIENCE = 5.0  # for one input; more is a hang
MEMORY = 2**30  # bytes that a reader may add to the process
_SETTINGS = hypothesis.settings(max_examples=25, deadline=None, database=None,
                                suppress_health_check=list(hypothesis.HealthCheck))


def fuzzed(*strategies):
  """Runs a test on batches of inputs for ``SECONDS``; a hang or too much memory fails."""
  def wrap(test):

    def one(inputs):
      signal.setitimer(signal.ITIMER_REAL, PATIENCE)
      try:
        test(*inputs)
      finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def bounded():
      before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      old = signal.signal(signal.SIGALRM, _hangs)
      end, batch = time.monotonic() + SECONDS, 0
      try:
        while time.monotonic() < end:
          given = hypothesis.given(st.tuples(*strategies))(one)
          hypothesis.seed(batch)(_SETTINGS(given))()
          batch += 1
      finally:
        signal.signal(signal.SIGALRM, old)
      added = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
      assert added < MEMORY

    bounded.__name__, bounded.__doc__ = test.__name__, test.__doc__
    return bounded
  return wrap


def _hangs(*args):
  raise TimeoutError(f'no answer within {PATIENCE} s')


def picture(form='PNG', **options) -> bytes:
  pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, form, **options)
  return buffer.getvalue()


PICTURE = picture()
# What a file may have become: cut, bytes replaced, a stretch twice or away.
_CHANGE = st.tuples(st.sampled_from(['cut', 'set', 'insert', 'drop', 'repeat']), st.floats(0, 1),
                    st.binary(min_size=1, max_size=8))


def damaged(whole: bytes):
  """The file with up to four changes."""
  def changed(changes):
    data = whole
    for kind, place, piece in changes:
      at = int(place * len(data))
      data = {'cut': data[:at], 'set': data[:at] + piece + data[at + len(piece):],
              'insert': data[:at] + piece + data[at:], 'drop': data[:at] + data[at + len(piece):],
              'repeat': data[:at] + data[max(0, at - 40 * len(piece)):]}[kind]
    return data
  return st.lists(_CHANGE, min_size=1, max_size=4).map(changed)


def values(*names: str, words=()):
  """JSON of any shape whose objects have these names, and other ones."""
  keys = st.sampled_from(names) | st.text(max_size=3)
  leaves = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
            | st.sampled_from(['a.png', '', '/', '\ud800', '\0', 'x' * 300, *words]))
  return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
      keys, inner, max_size=5), max_leaves=12)


def objects(*names: str, words=()):
  """A JSON object with some of the names."""
  inner = values(*names, words=words)
  return st.dictionaries(st.sampled_from(names), inner, max_size=6)


@pytest.fixture(scope='module', autouse=True)
def folder():
  """Where the inputs are written; nothing is asked of the network."""
  with tempfile.TemporaryDirectory() as name:
    Folder.path = pathlib.Path(name)
    (Folder.path / 'a.png').write_bytes(PICTURE)
    yield Folder.path


class Folder:
  path: pathlib.Path


def put(name: str, data: bytes | str) -> str:
  file = Folder.path / name
  file.parent.mkdir(exist_ok=True)
  file.write_bytes(data if isinstance(data, bytes) else data.encode(errors='surrogatepass'))
  return str(file)


def read(kind: str, path: str, **options) -> None:
  """Opens a source and takes all of its samples as training does; only user errors may come."""
  try:
    source = open_source(kind, path, **options)
    count = min(len(source), 50)
  except UserError as error:
    return _one_line(error)
  for index in range(count):
    try:
      sample = source[index]
      assert isinstance(sample.id, str) and sample.id.encode() is not None
      for part in sample.parts:
        if part.is_image and part.image is not None:
          decode(part.image)
        for text in (part.text or '', *part.variants):
          text.encode()
      tasks.prepare(sample, 'auto', base_config().data, 0, index)
      assert from_bytes(to_bytes(sample), '').id == sample.id
    except DecodeError as error:
      _one_line(error)
    except UserError as error:
      _one_line(error)
  return None


def _one_line(error: Exception) -> None:
  assert str(error) and '\n' not in str(error), str(error)


@fuzzed(st.binary(max_size=60) | st.text(max_size=20).map(lambda text: text.encode('utf-16')),
        st.binary(max_size=60) | st.lists(objects('file', 'image', 'caption', 'id', 'parts')).map(
            lambda rows: '\n'.join(map(json.dumps, rows)).encode()),
        st.binary(max_size=60) | values('a.png', './a.png').map(lambda value: json.dumps(
            value).encode()))
def test_captions(text, lines, listed):
  put('captions/a.png', PICTURE)
  put('captions/a.txt', text)
  put('captions/captions.jsonl', lines)
  put('captions/captions.json', listed)
  read('folder', str(Folder.path / 'captions'))


ROW = objects(
    'file', 'image', 'caption', 'captions', 'id', 'parts', 'text', 'role', 'loss', 'size', 'prompt',
    'conversations', 'from', 'value', 'image_list', 'instruction_list', 'image_path', 'image_paths',
    'image_tgt_path', 'input_prompt', 'input_image', 'output_image', 'input_images', 'instruction',
    'edit_image', 'control_path', 'control_path_0', 'control_path_7', 'bytes', 'path',
    words=('user', 'target', 'human', 'gpt', '<image>', '<image_2> x <gen_image>', '["a", "b"]'))


@fuzzed(st.lists(ROW, max_size=4), st.booleans())
def test_rows_of_json(rows, lines):
  if lines:
    read('jsonl', put('rows.jsonl', '\n'.join(map(json.dumps, rows))))
  else:
    read('json', put('rows.json', json.dumps(rows)))


@fuzzed(damaged(b'{"file": "a.png", "caption": "one"}\n{"file": "a.png", "caption": ["a", "b"]}\n'),
        damaged(b'image,prompt\na.png,"one, two"\na.png,three\n'))
def test_bytes_of_tables(lines, table):
  read('jsonl', put('t.jsonl', lines))
  read('json', put('t.json', lines))
  read('csv', put('t.csv', table))


def tar_of(**members: bytes) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as tar:
    for name, data in members.items():
      info = tarfile.TarInfo(name.replace('_', '.'))
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return buffer.getvalue()


@fuzzed(damaged(tar_of(a_png=PICTURE, a_txt=b'one', b_png=PICTURE, b_json=b'{"caption": "x"}')[:6144]))
def test_bytes_of_tars(data):
  read('tar', put('t.tar', data + bytes(1024)))
  read('tar', put('u.tar', data))


@fuzzed(values('caption', 'prompt', 'text'), st.binary(max_size=9), st.binary(max_size=9))
def test_members_of_tars(value, text, image):
  read('tar', put('m.tar', tar_of(a_png=PICTURE, a_txt=text, b_png=image,
                                  b_json=json.dumps(value).encode())))


def parquet_of(rows) -> bytes:
  buffer = io.BytesIO()
  parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
  return buffer.getvalue()


@fuzzed(damaged(parquet_of([{'image': {'bytes': PICTURE, 'path': 'a.png'}, 'caption': 'one'}] * 3)))
def test_bytes_of_parquet(data):
  read('parquet', put('t.parquet', data))


@fuzzed(st.lists(st.binary(max_size=9), min_size=1, max_size=3), st.binary(max_size=9))
def test_cells_of_parquet(texts, image):
  column = pyarrow.array(texts, pyarrow.binary()).cast(pyarrow.string(), safe=False) if all(
      map(_is_utf8, texts)) else pyarrow.array(texts, pyarrow.binary())
  table = pyarrow.table({'image': [image] * len(texts), 'caption': column})
  buffer = io.BytesIO()
  parquet.write_table(table, buffer)
  read('parquet', put('c.parquet', buffer.getvalue()))


def _is_utf8(data: bytes) -> bool:
  try:
    data.decode()
  except UnicodeDecodeError:
    return False
  return True


RECORD = to_bytes(open_source('shapes', '', size=16, limit=1)[0])


@fuzzed(damaged(RECORD) | objects('id', 'task', 'parts', 'role', 'loss', 'text', 'bytes', 'size',
                                  'variants', 'seen', words=('user', 'target')).map(
    lambda header: len(json.dumps(header)).to_bytes(4, 'little') + json.dumps(header).encode()))
def test_packed_records(data):
  try:
    sample = from_bytes(data, 'here')
  except UserError as error:
    return _one_line(error)
  for part in sample.images:
    if part.image is not None:
      try:
        decode(part.image)
      except DecodeError as error:
        _one_line(error)
  return None


@pytest.fixture(scope='module')
def archive(folder):
  put('source/a.png', PICTURE)
  write_archive(open_source('folder', str(folder / 'source')), str(folder / 'packed'))
  return folder


IMAGES = [picture(form, **options) for form, options in (
    ('PNG', {}), ('JPEG', {}), ('WEBP', {}), ('GIF', {}), ('BMP', {}), ('TIFF', {}),
    ('TIFF', dict(compression='tiff_lzw')), ('PPM', {}), ('AVIF', {}), ('JPEG2000', {}),
    ('TGA', {}), ('ICO', {}))]


@fuzzed(st.sampled_from(IMAGES).flatmap(damaged), st.sampled_from([None, (2, 3)]))
def test_bytes_of_images(data, at_least):
  for look in (image_size, functools.partial(decode, at_least=at_least)):
    try:
      look(data)
    except DecodeError as error:
      _one_line(error)
      assert ' 0x' not in str(error)


JOB = objects('prompt', 'source', 'reference', 'context', 'size', 'outputs', 'task', 'seed',
              'guidance', 'image_guidance', 'name', 'task_type', 'prompts', 'images', 'height',
              'width', 'output_num', words=('edit', 'pair', '8x8', '512', 'image_editing'))


@fuzzed(st.lists(JOB, max_size=3) | st.dictionaries(st.text(max_size=2), JOB, max_size=3)
        | values('prompt', 'size') | damaged(b'[{"prompt": "a cat", "size": [8, 8], "seed": 3}]'))
def test_job_files(job):
  data = job if isinstance(job, bytes) else json.dumps(job)
  try:
    read_job(put('job.json', data), base_config(), seed=0)
  except UserError as error:
    _one_line(error)


CONFIG = json.dumps(base_config().to_dict())


@fuzzed(damaged(CONFIG.encode()) | values('model', 'data', 'train').map(
    lambda value: json.dumps(value).encode()))
def test_configs_of_runs(data):
  try:
    from_json(data.decode(errors='replace'))
  except UserError as error:
    _one_line(error)


def safetensors_of(header: object, values: bytes = bytes(24)) -> bytes:
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, 'little') + text + values


WHOLE = safetensors_of({'a.weight': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}})
HEADER = st.dictionaries(st.text(max_size=4), objects(
    'dtype', 'shape', 'data_offsets', words=('F32', 'BF16', 'F8_E4M3', 'U4')), max_size=3)


@fuzzed(damaged(WHOLE) | HEADER.map(safetensors_of) | values('a').map(safetensors_of),
        values('model_type', 'architectures', '_class_name').map(json.dumps) | st.text(max_size=9))
def test_folders_of_models(data, config):
  put('model/model.safetensors', data)
  put('model/config.json', config)
  for write in (True, False):
    try:
      _, tensors = load_folder(str(Folder.path / 'model'))
      for tensor in tensors.values():
        np.asarray(tensor)
    except UserError as error:
      _one_line(error)
    if write:
      put('model/config.json', '{"model_type": "llama"}')


def test_bytes_of_arrayrecords(archive):
  whole = next((archive / 'packed').glob('*.arrayrecord')).read_bytes()

  @fuzzed(damaged(whole))
  def run(data):
    read('arrayrecord', put('t.arrayrecord', data))
  run()
