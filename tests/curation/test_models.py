"""Models: every kind answers, answers are kept by content, limits hold through restarts."""

import io
import json
import pathlib
import subprocess
import sys
import time
import urllib.request

import numpy as np
import onnx
from onnx import helper
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.curation import plugins
from jaxgen.curation.models import identity
from jaxgen.curation.models import open_model
from jaxgen.curation.models import Request
from jaxgen.curation.recipe import Limits
from jaxgen.data.decode import decode
from jaxgen.data.decode import image_size
from jaxgen.training.loop import train


@pytest.fixture(scope='module')
def server():
  process = subprocess.Popen([sys.executable, pathlib.Path(__file__).parent / 'endpoint.py'],
                             stdout=subprocess.PIPE, text=True)
  yield f'http://127.0.0.1:{int(process.stdout.readline())}'
  process.kill()
  process.wait()


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', 'any')


def calls(server):
  return int(urllib.request.urlopen(f'{server}/calls').read())


def picture(value, side=4):
  return to_png(np.full((side, side, 3), value, np.uint8))


def test_an_endpoint_is_asked_once_for_equal_content(server, tmp_path):
  spec, before = f'chat:m@{server}/v1', calls(server)
  model = open_model('words', spec, tmp_path)
  asked = [Request('one'), Request('two', (picture(1), picture(2))), Request('one'),
           Request('refuse'), Request('cut')]
  replies = model.ask(asked)
  assert [reply.text for reply in replies[:3]] == ['ONE 0', 'TWO 2', 'ONE 0']
  assert 'not this one' in replies[3].error and 'cut at its length' in replies[4].error
  assert replies[0].tokens == 7 and calls(server) == before + 4
  assert open_model('words', spec, tmp_path).ask(asked) == replies
  assert calls(server) == before + 4
  open_model('words', spec, tmp_path).ask([Request('two', (picture(1), picture(3)))])
  assert calls(server) == before + 5


@pytest.mark.parametrize('side, size', [(0, (30, 60)), (20, (10, 20))])
def test_an_endpoint_is_shown_what_it_can_read(side, size):
  buffer = io.BytesIO()
  Image.fromarray(np.full((30, 60, 3), 9, np.uint8)).save(buffer, 'WEBP')
  shown = plugins._sent(buffer.getvalue(), side)
  assert shown.startswith(b'\xff\xd8') and image_size(shown) == size
  png = picture(3)
  assert plugins._sent(png, 0) == png


def test_an_endpoint_draws_and_edits(server, tmp_path):
  model = open_model('draws', f'images:m@{server}/v1', tmp_path)
  drawn, edited = model.ask([Request('a cat', size=(64, 32)), Request('b', (picture(1),) * 2)])
  assert decode(drawn.images[0]).shape == (1, 1, 3)
  assert decode(edited.images[0]).shape == (1, 3, 3)


def test_an_endpoint_that_is_down_stops_the_run_and_keeps_nothing(tmp_path):
  model = open_model('words', 'chat:m@http://127.0.0.1:9/v1', tmp_path)
  model._load = lambda load=model._load: _impatient(load())
  with pytest.raises(UserError, match='--model words = .m.: does not answer'):
    model.ask([Request('one')])
  assert not list(tmp_path.glob('words/??/*.json'))


def _impatient(remote):
  remote._endpoint._client = remote._endpoint._client.with_options(max_retries=0)
  return remote


def test_limits_hold_for_all_workers_and_restarts(server, tmp_path):
  spec = f'chat:m@{server}/v1'
  first, second = (open_model('words', spec, tmp_path, Limits(calls=3), 2) for _ in range(2))
  first.ask([Request('l1'), Request('l2')])
  second.ask([Request('l3'), Request('l1')])  # one of them is kept
  for model in (first, second, open_model('words', spec, tmp_path, Limits(calls=3))):
    with pytest.raises(UserError, match='limits of words: calls = 3: 3 are spent'):
      model.ask([Request('l4')])
  assert open_model('words', spec, tmp_path, Limits(calls=4)).ask([Request('l4')])
  with pytest.raises(UserError, match='tokens = 20: 28 are spent'):
    open_model('words', spec, tmp_path, Limits(tokens=20)).ask([Request('l5')])


ASKING = '''
from jaxgen.curation import readers
from jaxgen.curation.models import Request
from jaxgen.curation.recipe import Recipe, Stage, Use
from jaxgen.data.sample import Part, Sample

def ask(record, model):
  reply, = model.ask([Request(record.id)])
  return record.having(sample=Sample(record.id, (Part('assistant', text=reply.text, loss=True),)))

def get_recipe():
  return Recipe(readers.listed(*(f'word {n} [slow]' for n in range(24))),
                [Stage(ask, model=Use('words'))], models={'words': ''}, chunk=4, threads=2)
'''


def test_a_killed_run_asks_nothing_twice(server, tmp_path):
  (tmp_path / 'recipe.py').write_text(ASKING)
  out, before = tmp_path / 'out', calls(server)
  words = [sys.executable, '-m', 'jaxgen.cli', 'curate', str(tmp_path / 'recipe.py'),
           f'--out={out}', f'--model=words=chat:m@{server}/v1']
  process = subprocess.Popen(words, cwd=pathlib.Path(__file__).parents[2],
                             stderr=subprocess.DEVNULL)
  while not list(out.glob('data-00001*')):
    assert process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.wait()
  subprocess.run(words, cwd=pathlib.Path(__file__).parents[2], check=True, capture_output=True)
  assert len(list(out.glob('*.arrayrecord'))) == 6
  assert 24 <= calls(server) - before <= 26  # two may have been on their way


def test_rates_hold(server, tmp_path):
  model = open_model('words', f'chat:m@{server}/v1', tmp_path, Limits(per_minute=300), 1)
  began = time.monotonic()
  for word in ('r1', 'r2', 'r3'):
    model.ask([Request(word)])
  assert time.monotonic() - began > 0.4


def test_an_onnx_file_sees_the_image_as_it_was_trained(tmp_path):
  """Mean of the channels after (x - mean) / std, and the largest value."""
  graph = helper.make_graph(
      [helper.make_node('ReduceMean', ['x'], ['mean'], axes=[2, 3], keepdims=0),
       helper.make_node('ReduceMax', ['x'], ['most'], axes=[1, 2, 3], keepdims=0)], 'g',
      [helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
      [helper.make_tensor_value_info('mean', onnx.TensorProto.FLOAT, [1, 3]),
       helper.make_tensor_value_info('most', onnx.TensorProto.FLOAT, [1])])
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
  helper.set_model_props(model, dict(mean='[0.5, 0.4, 0.3]', std='0.5'))
  onnx.save(model, tmp_path / 'm.onnx')
  image = np.full((20, 30, 3), (255, 102, 0), np.uint8)
  reply, = open_model('sees', f'onnx:{tmp_path / "m.onnx"}', tmp_path).ask(
      [Request(images=(to_png(image),))])
  np.testing.assert_allclose(reply.arrays['mean'], [1.0, 0.0, -0.6], atol=1e-6)
  again, = open_model('sees', f'onnx:{tmp_path / "m.onnx"}', tmp_path).ask(
      [Request(images=(to_png(image),))])
  np.testing.assert_array_equal(again.arrays['mean'], reply.arrays['mean'])
  assert reply.arrays['most'] == 1.0


def test_replayed_answers(tmp_path):
  Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / 'a.png')
  lines = [dict(text='hi', reply='there'), dict(text='draw', images=['a.png']),
           dict(system='judge', arrays=dict(score=[1.0, 2.0]))]
  file = tmp_path / 'answers.jsonl'
  file.write_text('\n'.join(map(json.dumps, lines)))
  model = open_model('any', f'replay:{file}', tmp_path)
  words, image, scores = model.ask([Request('hi'), Request('draw'), Request('x', system='judge')])
  assert words.text == 'there' and decode(image.images[0]).shape == (2, 2, 3)
  assert scores.arrays['score'].tolist() == [1.0, 2.0]
  with pytest.raises(UserError, match="has no answer to 'other'"):
    model.ask([Request('other')])


def test_models_are_told_apart_by_what_they_are(tmp_path):
  assert identity('chat:qwen@http://a/v1') == identity('chat:qwen@http://b/v1') == 'chat:qwen'
  for name, text in (('a', '1'), ('b', '2')):
    (tmp_path / name).write_text(text)
  assert identity(f'replay:{tmp_path / "a"}') != identity(f'replay:{tmp_path / "b"}')
  with pytest.raises(UserError, match='write KIND:NAME'):
    open_model('words', 'qwen', tmp_path)


@pytest.mark.slow
def test_a_workdir_draws(tiny_config, tmp_path):
  """A run of one step edits an image; what it has drawn once is kept."""
  tiny_config.train.steps = 1
  train(tiny_config, str(tmp_path / 'run'))
  asked = [Request('a red circle', size=(16, 16), seed=3),
           Request('a blue square', (picture(9, 16),), size=(16, 16))]
  spec = f'jaxgen:{tmp_path / "run"}'
  replies = open_model('draws', spec, tmp_path / 'calls').ask(asked)
  assert [decode(reply.images[0]).shape for reply in replies] == [(16, 16, 3)] * 2
  again = open_model('draws', spec, tmp_path / 'calls')
  again._load = None  # nothing is loaded for what is kept
  assert again.ask(asked) == replies
