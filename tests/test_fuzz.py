"""Readers of files that others wrote, fed with damaged and absurd ones: a sample or one clear line.

Hypothesis makes the inputs, in the same order in every run. Each reader gets two seconds; to search
for longer, set FUZZ_SECONDS.
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
from jaxgen.data.decode import read_picture
from jaxgen.data.sample import from_bytes
from jaxgen.data.sample import to_bytes
from jaxgen.data.sources import open_source
from jaxgen.sampling.dialogues import read_dialogue
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.jobs import read_job

SECONDS = float(os.environ.get('FUZZ_SECONDS', 2))  # for all inputs of a reader
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
  return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
      keys, inner, max_size=3), max_leaves=5)


def altered(*whole: dict, words=()):
  """One of the objects with up to two of its values replaced, or such values alone."""
  names = sorted({name for each in whole for name in each})
  wild = st.dictionaries(st.sampled_from(names), values(*names, words=words), max_size=2)
  return st.tuples(st.sampled_from([*whole, {}]), wild).map(lambda both: {**both[0], **both[1]})


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


def as_json(value: object) -> bytes:
  return json.dumps(value).encode()


@fuzzed(st.just(b'a cat') | st.binary(max_size=9) | st.text(max_size=9).map(
            lambda text: text.encode('utf-16', 'surrogatepass')),
        st.just(b'') | st.binary(max_size=20) | altered(
            {'file': 'a.png', 'caption': 'a cat'}, {'image': 'b.png', 'caption': 'x', 'id': '7'},
            words=('./b.png', 'C:\\b.png')).map(as_json),
        st.just(b'{}') | st.binary(max_size=20) | altered(
            {'b.png': 'a cat', './b.png': ['x', 'y']}).map(as_json))
def test_captions(text, lines, listed):
  put('captions/a.png', PICTURE)
  put('captions/b.png', PICTURE)
  put('captions/a.txt', text)
  put('captions/captions.jsonl', lines)
  put('captions/captions.json', listed)
  read('folder', str(Folder.path / 'captions'))


TEXT = {'text': 'a cat', 'role': 'user'}
IMAGE = {'image': 'a.png', 'role': 'target', 'size': [8, 8]}
ROWS = (
    {'file': 'a.png', 'caption': 'a cat', 'id': '7'}, {'image': 'a.png', 'caption': ['a', 'b']},
    {'id': '7', 'task': 'pair', 'parts': [TEXT, IMAGE]},
    {'image': 'a.png', 'prompt': 'x', 'edit_image': ['a.png']},
    {'image_path': 'a.png', 'caption': 'x', 'control_path_0': 'a.png', 'control_path_1': 'a.png'},
    {'image': 'a.png', 'conversations': [{'from': 'human', 'value': '<image> x'},
                                         {'from': 'gpt', 'value': 'y'}]},
    {'image_list': ['a.png', 'a.png'], 'instruction_list': [['one', 'two']]},
    {'input_images': ['a.png'], 'output_image': 'a.png', 'instruction': '<image_1> x'},
    {'image_paths': ['a.png'], 'image_tgt_path': 'a.png', 'prompt': 'x'},
    {'input_prompt': 'x', 'output_image': 'a.png', 'input_image': {'bytes': None, 'path': 'a.png'}})
# Whatever a part of a sample may be, with one thing changed, too.
PARTS = st.lists(altered(TEXT, IMAGE, words=('assistant', 'source', True)), max_size=3).map(
    lambda parts: {'id': '7', 'parts': parts})
ROW = PARTS | altered(*ROWS, words=('<image>', '<image_2> x <gen_image>', '["a", "b"]', 'target'))


@fuzzed(st.lists(ROW, min_size=1, max_size=2), st.booleans())
def test_rows_of_json(rows, lines):
  if lines:
    read('jsonl', put('rows.jsonl', b'\n'.join(map(as_json, rows))))
  else:
    read('json', put('rows.json', as_json(rows)))


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


@fuzzed(damaged(tar_of(a_png=PICTURE, a_txt=b'one', b_png=PICTURE, b_json=b'{"text": "x"}')[:6144]))
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


PACKED = ({'role': 'user', 'loss': False, 'text': 'a', 'variants': ['a', 'b']},
          {'role': 'target', 'loss': True, 'size': [8, 8], 'bytes': len(PICTURE), 'seen': True})


def packed(header: object) -> bytes:
  return len(as_json(header)).to_bytes(4, 'little') + as_json(header) + PICTURE


@fuzzed(damaged(RECORD) | altered({'id': '7', 'task': '', 'parts': []}).map(packed)
        | st.lists(altered(*PACKED, words=('user', 'target')), max_size=2).map(
            lambda parts: packed({'id': '7', 'task': '', 'parts': parts})))
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


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow's, of tags that make no sense
@fuzzed(st.sampled_from(IMAGES).flatmap(damaged), st.sampled_from([None, (2, 3)]))
def test_bytes_of_images(data, at_least):
  for look in (image_size, functools.partial(read_picture, at_least=at_least)):
    try:
      look(data)
    except DecodeError as error:
      _one_line(error)
      assert ' 0x' not in str(error)


JOBS = ({'prompt': 'a cat', 'size': [8, 8], 'seed': 3, 'guidance': 2.0, 'name': 'x', 'outputs': 2},
        {'prompt': 'x', 'source': 'a.png', 'task': 'edit', 'image_guidance': 1},
        {'prompt': 'x', 'reference': ['a.png'], 'context': []})
MONTAGE = ({'task_type': 'image_editing', 'prompts': 'x', 'images': ['a.png'], 'height': 8,
            'width': 8, 'output_num': 1},)
WORDS = ('8x8', '512', 'image_editing', 2**32, -1, 1e300)


@fuzzed(st.lists(altered(*JOBS, words=WORDS), max_size=2).map(as_json)
        | st.dictionaries(st.text(max_size=2), altered(*MONTAGE, words=WORDS), max_size=2).map(
            as_json)
        | values('prompt').map(as_json) | damaged(as_json(JOBS)))
def test_job_files(job):
  try:
    requests = read_job(put('job.json', job), base_config(), seed=0)
  except UserError as error:
    return _one_line(error)
  for request in requests:
    for part in request.sample.texts:
      part.text.encode()
    assert 0 <= request.seed < 2**32 and all(0 <= each <= 100 for each in request.scales.values())
  return None


TURNS = ({'role': 'source', 'image': 'a.png'}, {'role': 'user', 'text': 'x'})


@fuzzed(st.lists(altered(*TURNS, words=('assistant', 'target', 'system')), max_size=3).map(
            lambda parts: as_json({'parts': parts}))
        | values('parts', 'id', 'role', 'text').map(as_json) | damaged(as_json({'parts': TURNS})))
def test_dialogues(dialogue):
  put('a.png', PICTURE)
  try:
    state = Dialogue.of(read_dialogue(put('dialogue.json', dialogue)))
  except UserError as error:
    return _one_line(error)
  assert all(part.text is not None or part.image is not None for part in state.sample.parts)
  assert state.sample.parts[-1].role not in ('system', 'assistant', 'target')
  return None


CONFIG = json.dumps(base_config().to_dict())


@fuzzed(damaged(CONFIG.encode()) | values('model', 'data').map(as_json)
        | altered(json.loads(CONFIG)).map(as_json))
def test_configs_of_runs(data):
  try:
    from_json(data.decode(errors='replace'))
  except UserError as error:
    _one_line(error)


def safetensors_of(header: object, values: bytes = bytes(24)) -> bytes:
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, 'little') + text + values


WHOLE = safetensors_of({'a.weight': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}})
HEADER = st.dictionaries(st.text(max_size=4), altered(
    {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]},
    words=('F32', 'BF16', 'F8_E4M3', 'U4')), max_size=2)


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
