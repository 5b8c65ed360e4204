"""OpenAI's images API by the package openai itself, over a real socket."""

import base64
import io
import json

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from jaxgen.sampling.images import to_png
from jaxgen.sampling.request import make_request
from tests.sampling.scripted import picture
from tests.serving import tiny

KEY = 'a key of sixteen letters or more'


@pytest.fixture(scope='module')
def engine(tiny_tokenizer):
  engine = tiny.make_engine(tiny.make_run(tiny_tokenizer))
  engine.start()
  yield engine
  assert engine.drain(60) and engine.counts.programs == 0


@pytest.fixture(scope='module')
def url(engine):
  with tiny.serving(engine, keys=['another key, as long as the first', KEY]) as url:
    yield url


@pytest.fixture(scope='module')
def client(url):
  return openai.OpenAI(base_url=f'{url}/v1', api_key=KEY, max_retries=0, timeout=120)


def pixels(image) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64_json))))


def alone(engine, steps=2, **asked) -> list[np.ndarray]:
  """What the engine draws for a request by itself."""
  request = make_request(engine.drawer.run.config, **asked)
  return engine.submit([engine.drawer.prepare(request, steps)])[0].future.result(120)


def near(left, right) -> bool:
  return left.shape == right.shape and np.abs(left.astype(int) - right.astype(int)).max() <= 1


def test_generations_of_the_client(engine, client):
  answer = client.images.generate(prompt='a red circle', n=2, size='32x16',
                                  response_format='b64_json', extra_body=dict(seed=7, steps=2, guidance=2.5))
  drawn = [pixels(image) for image in answer.data]
  for number, image in enumerate(drawn):
    expected, = alone(engine, text='a red circle', size=(16, 32), seed=7, number=number,
                      guidance=2.5)
    assert near(image, expected)
  assert not near(*drawn) and answer.seed == 7
  assert client.images.generate(prompt='a cross', extra_body=dict(steps=1)).data[0].size == '16x16'


def test_edits_of_several_images_by_role(engine, client):
  sent = [picture(1), picture(2, (30, 20))]
  files = [(f'{index}.png', to_png(image)) for index, image in enumerate(sent)]
  answer = client.images.edit(image=files, prompt='put both in one', size='16x16', extra_body=dict(
      seed=3, steps=2, roles=['reference', 'reference'], outputs=2, sizes=['16x16', '32x16']))
  assert [image.size for image in answer.data] == ['16x16', '32x16']
  answer = client.images.edit(image=files[0], prompt='make it green', extra_body=dict(
      seed=3, steps=2))
  expected, = alone(engine, text='make it green', source=[sent[0]], size=(16, 16), seed=3)
  assert near(pixels(answer.data[0]), expected)


def test_steps_are_streamed(client):
  stream = client.images.generate(prompt='a cross', stream=True, extra_body=dict(steps=3, seed=1))
  events = [event.model_dump() for event in stream]
  assert [event.get('step') for event in events] == [1, 2, 3, None]
  assert events[-1]['type'] == 'image_generation.completed' and events[-1]['b64_json']


def test_models_health_and_metrics(url, client):
  model, = client.models.list().data
  assert (model.id, model.sizes) == ('tiny', ['16x16', '32x16'])
  assert client.models.retrieve('tiny').id == 'tiny'
  assert httpx.get(f'{url}/healthz').json()['status'] == 'ok'
  text = httpx.get(f'{url}/metrics', headers=dict(authorization=f'Bearer {KEY}')).text
  assert 'jaxgen_programs_total 0.0' in text and 'jaxgen_queued 0.0' in text
  assert 'jaxgen_calls_total{route="/v1/models",status="200"} 1.0' in text


@pytest.mark.parametrize('asked, status, param, said', [
    (dict(size='17x16'), 400, None, 'this server draws 16x16, 32x16'),
    (dict(size='large'), 400, 'size', 'write WIDTHxHEIGHT'),
    (dict(n=9), 400, 'n', 'use 1 to 8'),
    (dict(response_format='url'), 400, 'response_format', 'use b64_json'),
    (dict(model='dall-e-3'), 404, 'model', "this server has 'tiny'"),
    (dict(prompt='x' * 20_000), 400, 'prompt', 'it may have 16000'),
    (dict(prompt='a red circle ' * 400), 400, None, 'more than config.data.prompt_tokens'),
    (dict(prompt='half \ud83d'), 400, None, 'surrogate'),
    (dict(extra_body=dict(steps='many')), 400, 'steps', 'must be a whole number'),
    (dict(extra_body=dict(seed=-1)), 400, 'seed', 'use 0 to'),
    (dict(extra_body=dict(outputs=3)), 400, 'outputs', 'use 1 to 2'),
    (dict(extra_body=dict(guidance=float('nan'))), 400, 'guidance', 'use 0 to 100'),
    (dict(extra_body=dict(image='/etc/passwd')), 400, 'image', 'no such field'),
])
def test_what_is_refused_says_why_in_openai_s_schema(url, asked, status, param, said):
  body = dict(prompt='a cross') | asked | asked.get('extra_body', {})
  body.pop('extra_body', None)
  content = json.dumps(body)
  answer = httpx.post(f'{url}/v1/images/generations', content=content,
                      headers=dict(authorization=f'Bearer {KEY}'))
  error = answer.json()['error']
  assert answer.status_code == status and said in error['message'] and '\n' not in error['message']
  assert param is None or error['param'] == param


def test_errors_are_those_of_the_client(url, client):
  with pytest.raises(openai.BadRequestError) as found:
    client.images.generate(prompt='a cross', size='512x512')
  assert found.value.type == 'invalid_request_error'
  for key in ('', 'no key of this server at all'):
    with pytest.raises(openai.AuthenticationError):
      openai.OpenAI(base_url=f'{url}/v1', api_key=key or 'x', max_retries=0).models.list()
  with pytest.raises(openai.APIStatusError) as found:
    client.images.generate(prompt='a cross', extra_body=dict(timeout=0.001))
  assert found.value.status_code == 504
  with pytest.raises(openai.NotFoundError):
    client.embeddings.create(model='tiny', input='text')
