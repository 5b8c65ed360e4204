"""Requests from pieces and from job files, what is wrong with them, and the files of results."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data.sample import FileImage
from jaxgen.sampling.batching import FINENESS
from jaxgen.sampling.batching import _rounded
from jaxgen.sampling.jobs import parse_size
from jaxgen.sampling.jobs import read_job
from jaxgen.sampling.jobs import read_results
from jaxgen.sampling.jobs import save_results
from jaxgen.sampling.request import make_request
from jaxgen.sampling.request import make_requests
from tests.training.launched import kill_when


# An entry of iMontage's job files.
RELEASED = {'task_type': 'cref', 'prompts': 'a', 'images': ['a.png'], 'height': 8, 'width': 8}


@pytest.fixture
def folder(tmp_path):
  """A folder with two images."""
  for name in ('a', 'b'):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f'{name}.png')
  return tmp_path


def written(folder, job) -> str:
  (folder / 'job.json').write_text(json.dumps(job))
  return str(folder / 'job.json')


def roles(request) -> list[str]:
  return [part.role for part in request.sample.parts]


def test_our_job_files(folder, tiny_base):
  job = written(folder, [
      {'prompt': 'a cat'},
      {'prompt': 'make it red', 'source': 'a.png', 'reference': ['b.png'], 'size': [8, 16],
       'guidance': 2, 'image_guidance': 1.5, 'seed': 7, 'name': 'edit'},
      {'prompt': 'a story', 'outputs': 2, 'size': '16x24'}])
  plain, edit, story = read_job(job, tiny_base, seed=3, size=None, outputs=1, guidance=None)
  assert (plain.seed, plain.number, plain.sample.texts[0].text) == (
      3, 0, 'Generate an image: a cat')
  assert plain.sample.targets[0].size == (16, 16) and plain.sample.task == 'pair'
  assert roles(edit) == ['source', 'reference', 'user', 'target'] and edit.sample.id == 'edit'
  assert edit.sample.images[0].image == FileImage(str(folder / 'a.png'))
  assert (edit.seed, edit.number, edit.scales) == (7, 1, {'text': 2, 'image': 1.5})
  assert [part.size for part in story.sample.targets] == [(16, 24)] * 2
  assert story.sample.task == 'many_to_many' and story.scales['text'] == tiny_base.sampling.guidance


def test_job_files_of_imontage(folder, tiny_base):
  panels = [f'{number}. she walks on' for number in range(1, 13)]
  job = written(folder, {
      '0': {'task_type': 'image_editing', 'prompts': 'make it red', 'images': ['a.png'],
            'height': 16, 'width': 24, 'output_num': 1},
      '1': {'task_type': 'storyboard', 'prompts': [f'film: {panels[0]}', *panels[1:]],
            'images': 'a.png,b.png', 'height': 8, 'width': 8, 'output_num': 12},
      '2': {'task_type': 'conditioned_cref', 'prompts': 'depth', 'images': ['a.png', 'b.png'],
            'height': 8, 'width': 8, 'output_num': 1}})
  edit, story, control = read_job(job, tiny_base, seed=1, size=(8, 8))
  assert roles(edit) == ['source', 'user', 'target'] and edit.sample.targets[0].size == (16, 24)
  assert roles(story) == ['reference', 'reference', 'user'] + ['target'] * 12
  said = 'Please output {} images according to the instruction: {}'
  assert [request.sample.texts[0].text for request in (edit, story, control)] == [
      said.format(1, 'make it red'),
      said.format(12, 'Inspired by this character, a film unfolds: ' + '\n'.join(panels)),
      said.format(1, 'Ref to the first depth image, generate image with other images.')]
  assert story.seed == 1
  assert [part.image.path[-5:] for part in story.sample.images[:2]] == ['a.png', 'b.png']


def test_a_released_job_file_lies_beside_its_images_or_below_them(folder, tiny_base, monkeypatch):
  """In the release it lies in assets/ and its paths begin there; sizes are rounded up."""
  (folder / 'assets').mkdir()
  (folder / 'assets/job.json').write_text(json.dumps({'7': RELEASED | {'images': ['b.png']}}))
  with pytest.raises(UserError, match='assets/b.png.: no such file'):
    read_job(str(folder / 'assets/job.json'), tiny_base)
  monkeypatch.chdir(folder)
  request, = read_job('assets/job.json', tiny_base)
  assert request.sample.images[0].image == FileImage('b.png')
  (folder / 'assets/b.png').write_bytes((folder / 'b.png').read_bytes())
  request, = read_job('assets/job.json', tiny_base)
  assert request.sample.images[0].image == FileImage('assets/b.png')


def test_sizes_of_released_job_files_are_fitted_and_said(folder, tiny_base, capsys):
  sizes = [(604, 1024), (16, 17), (416, 640)]
  job = written(folder, {str(number): RELEASED | {'height': height, 'width': width}
                         for number, (height, width) in enumerate(sizes)})
  found = [request.sample.targets[0].size for request in read_job(job, tiny_base, factor=16)]
  assert found == [(608, 1024), (16, 32), (416, 640)]
  assert capsys.readouterr().err == (
      f'{job}["0"]: 604x1024 is drawn as 608x1024, multiples of 16 pixels\n'
      f'{job}["1"]: 16x17 is drawn as 16x32, multiples of 16 pixels\n')
  # Without sizes it takes those of the flags.
  unsized = {key: RELEASED[key] for key in ('task_type', 'prompts', 'images')}
  request, = read_job(written(folder, {'0': unsized}), tiny_base, size=(32, 16))
  assert request.sample.targets[0].size == (32, 16)


@pytest.mark.parametrize('job, message', [
    ([], 'must be a JSON list of one or more requests'),
    ('a cat', 'must be a JSON list of one or more requests'),
    (['a cat'], r"job.json\[0\] = 'a cat': each request must be a JSON object"),
    ([{'prompt': 'a'}, {'promt': 'b'}], r"job.json\[1\].promt = 'b': no such field; known: prompt"),
    ([{'prompt': 5}], r'job.json\[0\].prompt = 5: must be a string'),
    ([{'prompt': 'a', 'outputs': '3'}], r"\[0\].outputs = '3': must be a whole number"),
    ([{'prompt': 'a', 'outputs': 0}], r'\[0\]: outputs = 0: use 1 to 1024'),
    ([{'prompt': 'a', 'outputs': 10**9}], r'\[0\]: outputs = 1000000000: use 1 to 1024'),
    ([{'prompt': 'a', 'seed': -1}], r'\[0\]: seed = -1: use 0 to 4294967295'),
    ([{'prompt': 'a', 'seed': 2**32}], r'\[0\]: seed = 4294967296: use 0 to 4294967295'),
    ([{'prompt': 'a', 'seed': 2**64 - 1}], r'\[0\]: seed = 18446744073709551615: use 0 to'),
    ([{'prompt': 'a', 'guidance': -3}], r'\[0\]: text guidance = -3: use 0 to 100'),
    ([{'prompt': 'a', 'guidance': 1e30}], r'\[0\]: text guidance = 1e\+30: use 0 to 100'),
    ([{'prompt': 'a', 'guidance': float('nan')}], r'\[0\]: text guidance = nan: use 0 to 100'),
    ([{'prompt': 'a', 'image_guidance': float('inf')}], r'image guidance = inf: use 0 to 100'),
    ([{'prompt': 'a', 'source': '.'}], r"\[0\].source = '.*': is a folder; name a file"),
    ([{'prompt': 'a', 'source': '\0'}], r"\[0\].source = '.*': no such file"),
    ([{'prompt': 'a', 'source': 'x' * 999}], r"\[0\].source = '.*xx ...: no such file"),
    ([{'prompt': 'a\0b'}], r'prompt: holds zero bytes'),
    ([{'prompt': 'a \ud83d'}], r'prompt: holds .*half of a surrogate pair'),
    ([{'prompt': 'a', 'seed': True}], r'\[0\].seed = True: must be a whole number'),
    ([{'prompt': 'a', 'guidance': 'high'}], r"\[0\].guidance = 'high': must be a number"),
    ([{'prompt': 'a', 'size': [8]}], r'\[0\].size = \[8\]: sides are whole numbers'),
    ([{'prompt': 'a', 'size': [8, 'x']}], r"\[0\].size = \[8, 'x'\]: sides are whole numbers"),
    ([{'prompt': 'a', 'size': 'big'}], r"\[0\].size = 'big': write one number, or HEIGHTxWIDTH"),
    ([{'prompt': 'a', 'source': 'c.png'}], r"\[0\].source = '.*c.png': no such file"),
    ([{'prompt': 'a', 'source': [5]}], r'\[0\].source = \[5\]: must be a path or a list of paths'),
    ([{'prompt': 'a', 'task': 'paint'}], r"\[0\]: task = 'paint': use auto, or one of pair, edit"),
    ([{'prompt': 'a', 'task': 'edit'}], r'\[0\] = .*: task edit needs an image of role source'),
    ([{'source': 'a.png'}], r'\[0\]: caption: missing, but task edit needs one'),
    ({'0': RELEASED | {'task_type': 'paint'}},
     r'\["0"\].task_type = .paint.: use one of image_editing, cref'),
    ({'0': RELEASED | {'task_type': ['cref'], 'prompts': 5}},
     r'\["0"\].prompts = 5: must be a string'),
    ({'0': RELEASED | {'outputs': 2}}, r'\["0"\].outputs = 2: no such field; known: task_type'),
    ({'0': RELEASED | {'images': []}}, r'\["0"\].images = \[\]: cref needs an image'),
    ({'0': RELEASED | {'task_type': 'sref', 'images': ['a.png']}},
     r'\["0"\].images = .*: sref needs 2 images or more: the content first, the style second'),
    ({'0': RELEASED | {'task_type': 'conditioned_cref', 'prompts': 'depth'}},
     r'\["0"\].images = .*: conditioned_cref needs 2 images or more: the control map first'),
    ({'0': RELEASED | {'task_type': 'multiview', 'prompts': '1. pan left 2. zoom in by 1.5'}},
     r'\["0"\].output_num = 1: its instruction lists 2 images'),
    ({'0': RELEASED | {'task_type': 'storyboard', 'prompts': 'film: 1、a 2、b', 'output_num': 3}},
     r'\["0"\].output_num = 3: its instruction lists 2 images'),
    ({'0': RELEASED | {'task_type': 'image_editing', 'prompts': '1. a 2. b 3. c', 'output_num': 2}},
     r'\["0"\].output_num = 2: its instruction lists 3 images'),
    ({'0': RELEASED | {'height': 0}}, r'\["0"\].height = \[0, 8\]: sides are whole numbers'),
    ([{'prompt': 'Please output 3 images according to the instruction: a', 'outputs': 2}],
     r"\[0\]: caption = 'Please output 3 .*': contradicts the number of outputs, 2"),
    ({'0': {'task_type': 'storyboard', 'prompts': 'a', 'width': 8, 'height': 8}},
     r'\["0"\].prompts = .a.: write "style: 1'),
    ({'0': {'task_type': 'cref', 'prompts': 'a', 'width': 8}}, r'\["0"\].height: missing'),
    ({'0': RELEASED | {'images': ['c.png']}}, r'\["0"\].images = .*c.png.*no such file'),
    ({'0': RELEASED | {'output_num': 'x'}},
     r"\[\"0\"\].output_num = 'x': must be a whole number"),
])
def test_mistakes_name_the_entry_and_the_field(folder, tiny_base, job, message):
  with pytest.raises(UserError, match=message) as error:
    read_job(written(folder, job), tiny_base)
  assert '\n' not in str(error.value)


def test_files_that_are_no_jobs(folder, tiny_base):
  with pytest.raises(UserError, match="--job = 'none.json': no such file"):
    read_job('none.json', tiny_base)
  (folder / 'job.json').write_text('[{')
  with pytest.raises(UserError, match='--job = .*is not JSON: '):
    read_job(str(folder / 'job.json'), tiny_base)


def test_sizes():
  assert parse_size('') is None
  assert parse_size('512') == (512, 512) and parse_size('512x768') == (512, 768)
  for text in ('x', '5x', '1x2x3', '-4', '0', '2.5', '8x0', '99999999'):
    with pytest.raises(UserError, match=f"--size = '{text}'"):
      parse_size(text)


def test_a_source_lends_its_shape_where_there_are_buckets(tiny_config):
  source = [np.zeros((20, 42, 3), np.uint8)]
  assert make_request(tiny_config, 'x', source=source).sample.targets[0].size == (16, 16)
  tiny_config.data.buckets = 'ratios:64/16'
  height, width = make_request(tiny_config, 'x', source=source).sample.targets[0].size
  assert width / height > 1.5
  assert make_request(tiny_config, 'x', source=source, size=(32, 16)).sample.targets[0].size == (
      32, 16)
  with pytest.raises(UserError, match="prompt 'x': an image cannot be read"):
    make_request(tiny_config, 'x', source=[b'no image'])


def test_no_words_are_the_empty_prompt(tiny_base):
  for text in (None, '', ' '):
    request = make_request(tiny_base, text)
    assert [part.text for part in request.sample.texts] == [tiny_base.data.empty_prompt]


def test_few_sizes_of_rows():
  for unit in (1, 16):
    sizes = [_rounded(amount, unit) for amount in range(1, 4097)]
    assert all(amount <= size < amount * (1 + 1 / FINENESS) + unit
               for amount, size in enumerate(sizes, start=1))
    assert len(set(sizes)) <= FINENESS * 10 and all(size % unit == 0 for size in sizes)
  assert _rounded(0, 16) == 0 and _rounded(1024, 16) == 1024


def test_results_say_what_each_image_is(folder, tiny_base):
  requests = make_requests(tiny_base, ['a cat', 'make it red'], seed=4, outputs=2,
                           source=[FileImage(str(folder / 'a.png'))])
  rng = np.random.default_rng(0)
  images = [list(rng.integers(0, 256, (2, 16, 24, 3), np.uint8)), [np.zeros((8, 8, 3), np.uint8)]]
  paths = save_results(requests, images, str(folder / 'out'))
  names = ['0000_0.png', '0000_1.png', '0001.png']
  assert paths == [str(folder / 'out' / name) for name in names]
  for path, image in zip(paths, (*images[0], *images[1]), strict=True):
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
  first, second = json.loads((folder / 'out/results.json').read_text())
  assert first['files'] == names[:2] and second['files'] == names[2:]
  assert first['parts'] == [{'role': 'source', 'image': str(folder / 'a.png')},
                            {'role': 'user', 'text': 'a cat'}]
  assert (first['seed'], second['number']) == (4, 1) and first['sizes'] == [[16, 24]] * 2
  # Another call removes what it does not replace, and no image that is not of an earlier one.
  (folder / 'out/0007.png').write_bytes(b'mine')
  save_results(requests[1:], images[1:], str(folder / 'out'))
  assert sorted(path.name for path in (folder / 'out').iterdir()) == [
      '0000.png', '0007.png', 'results.json']


KILLED = """
import sys

import numpy as np

from jaxgen.config import base_config
from jaxgen.sampling.jobs import save_results
from jaxgen.sampling.request import make_requests

images = np.random.default_rng(0).integers(0, 256, (100, 1, 256, 256, 3), np.uint8)
save_results(make_requests(base_config(), ['x'] * 100, size=(16, 16)), list(images), sys.argv[1])
"""


def test_the_images_of_a_call_that_was_killed_are_nobodys(tmp_path, tiny_base):
  def files():
    return sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith('.'))

  requests = make_requests(tiny_base, ['x', 'y', 'z'])
  images = [[np.zeros((8, 8, 3), np.uint8)]] * 3
  save_results(requests, images, str(tmp_path))
  (tmp_path / '0200.png').write_bytes(b'mine')
  process = subprocess.Popen([sys.executable, '-c', KILLED, str(tmp_path)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  kill_when(process, (tmp_path / '0005.png').exists)
  assert 'results.json' not in files() and '0005.png' in files() and '0099.png' not in files()
  save_results(requests[1:], images[1:], str(tmp_path))
  assert files() == ['0000.png', '0001.png', '0200.png', 'results.json']
  assert [entry['files'] for entry in read_results(tmp_path)] == [
      [str(tmp_path / '0000.png')], [str(tmp_path / '0001.png')]]


def test_every_seed_draws_noise_of_its_own(tiny_base):
  seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
  array = np.zeros(len(seeds), np.uint32)
  for index, seed in enumerate(seeds):
    array[index] = make_request(tiny_base, 'x', seed=seed).seed
  keys = jax.random.key_data(jax.vmap(jax.random.key)(array))
  assert len({tuple(key) for key in keys.tolist()}) == len(seeds)
  for index, seed in enumerate(seeds[:3]):
    assert keys[index].tolist() == jax.random.key_data(jax.random.key(seed)).tolist()
