"""A server of a tiny model: its engine, OpenAI's API by the package openai, and bad clients.

All with one engine, whose programs are compiled once: nothing here may compile a further one.
"""

import asyncio
import base64
import concurrent.futures
import dataclasses
import gc
import http.client
import json
import socket
import struct
import threading
import time
import zlib

import httpx
import jax
import numpy as np
import openai
import pytest
from starlette.requests import Request
from starlette.types import Message

from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.sampling.generate import generate
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import Options
from jaxgen.sampling.interleaved import converse
from jaxgen.sampling.request import make_request
from jaxgen.serving.calls import PREPARED_AT_ONCE
from jaxgen.serving.calls import Calls
from jaxgen.serving.chat_api import ChatApi
from jaxgen.serving.conversation import Conversation
from jaxgen.serving.engine import Engine
from jaxgen.serving.engine import Late
from jaxgen.serving.engine import Refused
from jaxgen.serving.errors import ApiError
from jaxgen.serving.images_api import ImagesApi
from jaxgen.sharding.mesh import make_mesh
from tests.sampling.scripted import picture
from tests.serving import tiny
from tests.serving.tiny import near
from tests.serving.tiny import pixels

KEY = 'a key of sixteen letters or more'
BEARER = dict(authorization=f'Bearer {KEY}')
EDITS, DRAW, CHAT = '/v1/images/edits', '/v1/images/generations', '/v1/chat/completions'
SQUARE, WIDE = tiny.SIZES


@pytest.fixture(scope='module')
def run(tiny_tokenizer):
  return tiny.make_run(tiny_tokenizer)


@pytest.fixture(scope='module')
def by_command(run):
  """What ``jaxgen sample`` draws for the second request of ``mixed``, and in a dialogue."""
  given = dict(maker=run.maker, config=run.config,
               mesh=make_mesh(run.config.mesh, jax.devices()[:1]))
  request, steps = mixed(run.config)[1]
  images, = generate(run.system, run.params, [request], steps=steps, **given)
  asked = Dialogue.of(Sample('dialogue', (Part('user', text=tiny.USER),)), seed=4, size=SQUARE)
  *_, end = converse(run.system, run.params, [asked], options=Options(steps=2, max_tokens=24),
                     **given)
  return images, [part.image for part in end.dialogue.answer if part.is_image]


@pytest.fixture(scope='module')
def engine(run, by_command):
  del by_command  # programs that are compiled before are not counted
  engine = tiny.make_engine(run)
  engine.start()
  yield engine
  assert engine.drain(60)
  assert engine.counts.programs == 0 and engine.counts.failed <= 1


@pytest.fixture(scope='module')
def url(engine):
  with tiny.serving(engine, keys=['another key, as long as the first', KEY]) as url:
    yield url


@pytest.fixture(scope='module')
def client(url):
  return openai.OpenAI(base_url=f'{url}/v1', api_key=KEY, max_retries=0, timeout=120)


def until(true, seconds: float = 30.0) -> bool:
  """Whether it comes true in time."""
  end = time.monotonic() + seconds
  while not true() and time.monotonic() < end:
    time.sleep(0.02)
  return true()


def alone(engine, steps=2, **asked) -> list[np.ndarray]:
  """What the engine draws for a request by itself."""
  request = make_request(engine.drawer.run.config, **asked)
  return engine.submit([engine.drawer.prepare(request, steps)])[0].future.result(120)


# --- The engine -----------------------------------------------------------------------------------


def mixed(config) -> list:
  """Requests of unlike sizes, references, outputs and scales, with their steps."""
  return [
      (make_request(config, 'a red circle', size=SQUARE, seed=1), 3),
      (make_request(config, 'two blue squares', size=WIDE, seed=2), 5),
      (make_request(config, 'make it green', source=[picture(1)], size=SQUARE, seed=3), 2),
      (make_request(config, 'both in one', reference=[picture(2), picture(3, (40, 20))], size=WIDE,
                    seed=4, guidance=1.0), 4),
      (make_request(config, 'a cross', size=SQUARE, outputs=2, seed=5, guidance=3.0), 3),
      (make_request(config, '', size=SQUARE, seed=6, number=3), 1)]


def test_answers_are_those_of_each_request_alone(run, engine):
  jobs = [engine.drawer.prepare(request, steps) for request, steps in mixed(run.config)]
  assert {job.kind for job in jobs} == {0, 1, 2} == set(range(len(engine.drawer.kinds)))
  expected = [engine.submit([job])[0].future.result(60) for job in jobs]
  assert [len(images) for images in expected] == [1, 1, 1, 1, 2, 1]
  before, steps = engine.counts.batches, []
  with tiny.held(engine):
    tickets = engine.submit([*jobs[::-1], *jobs], listen=steps.append)
  together = [ticket.future.result(60) for ticket in tickets]
  assert engine.counts.batches - before < len(jobs)  # they share rows
  assert all(map(near, together, [*expected[::-1], *expected]))
  assert [step.step for step in steps if step.job == 7] == [1, 2, 3, 4, 5]


def test_a_request_that_goes_wrong_leaves_its_neighbours_alone(run, engine):
  job = engine.drawer.prepare(make_request(run.config, 'a cross', size=SQUARE, seed=1), 4)
  expected = engine.submit([job])[0].future.result(60)
  levels = job.levels.copy()
  levels[1, 1] = np.inf  # where an absurd scale would lead to
  before, failed = engine.counts.batches, engine.counts.failed
  with tiny.held(engine):
    bad, good = engine.submit([dataclasses.replace(job, kind=2, levels=levels),
                               dataclasses.replace(job, kind=2)])
  assert near(good.future.result(60), expected) and engine.counts.batches == before + 1
  with pytest.raises(UserError, match='not finite'):
    bad.future.result(60)
  assert until(lambda: engine.counts.failed == failed + 1)


def test_the_server_draws_what_the_command_draws(run, engine, by_command):
  request, steps = mixed(run.config)[1]
  served = engine.submit([engine.drawer.prepare(request, steps)])[0].future.result(60)
  assert near(served, by_command[0])


def test_a_server_that_is_stopped_finishes_what_it_has(run, engine):
  second = Engine(engine.drawer, engine.limits)
  second.start()
  jobs = [second.drawer.prepare(request, steps) for request, steps in mixed(run.config)]
  with concurrent.futures.ThreadPoolExecutor() as pool, tiny.held(second):
    tickets = second.submit(jobs)
    drained = pool.submit(second.drain, 60)
    assert until(lambda: not second.healthy)
    with pytest.raises(Refused, match='being stopped'):
      second.submit(jobs)
  assert drained.result() and all(ticket.future.result() for ticket in tickets)


def test_nobody_waits_for_an_engine_that_has_ended(run, engine):
  second = Engine(engine.drawer, engine.limits)
  second.start()
  job = engine.drawer.prepare(make_request(run.config, 'a cross', size=SQUARE), 1)
  with tiny.held(second):
    tickets = second.submit([dataclasses.replace(job, kind=99), job])  # there is no such program
  for ticket in tickets:
    with pytest.raises(Refused, match='the server has failed'):
      ticket.future.result(60)
  assert not second.healthy
  for ask in (lambda: second.submit([job], taken=True), lambda: second.run(list)):
    with pytest.raises(Refused, match='the server has failed'):
      ask()


def test_what_a_dialogue_waits_for_is_not_done_once_its_client_has_left(engine):
  asked = Sample('dialogue', (Part('user', text=tiny.USER),), origin='messages')
  conversation, done = Conversation(engine, asked, Options()), []
  with concurrent.futures.ThreadPoolExecutor() as pool, tiny.held(engine):
    waiting = pool.submit(conversation._run, lambda: done.append(True))
    assert until(lambda: engine._errands)
    conversation.stop()
  with pytest.raises(concurrent.futures.CancelledError):
    waiting.result(60)
  assert not done


# --- OpenAI's API ---------------------------------------------------------------------------------


def test_generations_of_the_client(engine, client):
  answer = client.images.generate(
      prompt='a red circle', n=2, size='32x16', response_format='b64_json',
      extra_body=dict(seed=7, steps=2, guidance=2.5))
  drawn = [pixels(image.b64_json) for image in answer.data]
  for number, image in enumerate(drawn):
    assert near([image], alone(engine, text='a red circle', size=WIDE, seed=7, number=number,
                               guidance=2.5))
  assert not near(drawn[:1], drawn[1:]) and answer.seed == 7
  assert client.images.generate(prompt='a cross', extra_body=dict(steps=1)).data[0].size == '16x16'


def test_edits_of_several_images_by_role(engine, client):
  sent = [picture(1), picture(2, (30, 20))]
  files = [(f'{index}.png', to_png(image)) for index, image in enumerate(sent)]
  answer = client.images.edit(image=files, prompt='put both in one', extra_body=dict(
      seed=3, steps=2, roles=['reference', 'reference'], outputs=2, sizes=['16x16', '32x16']))
  assert [image.size for image in answer.data] == ['16x16', '32x16']
  answer = client.images.edit(image=files[0], prompt='make it green', size='16x16',
                              extra_body=dict(seed=3, steps=2))
  assert near([pixels(answer.data[0].b64_json)], alone(
      engine, text='make it green', source=sent[:1], size=SQUARE, seed=3))


def test_steps_are_streamed(client):
  stream = client.images.generate(prompt='a cross', stream=True, extra_body=dict(steps=3, seed=1))
  events = [event.model_dump() for event in stream]
  assert [event.get('step') for event in events] == [1, 2, 3, None]
  assert events[-1]['type'] == 'image_generation.completed' and events[-1]['b64_json']


def test_a_dialogue_is_answered_by_texts_and_images_in_turn(client, by_command):
  asked = dict(model='tiny', messages=[dict(role='user', content=tiny.USER)], seed=4,
               extra_body=dict(steps=2))
  answer = client.chat.completions.create(**asked).choices[0]
  kinds = [part.get('text') for part in answer.message.parts]
  assert kinds == list(tiny.ANSWER) and answer.finish_reason == 'stop'
  assert answer.message.content == '\n'.join(filter(None, tiny.ANSWER))
  pieces = []
  for chunk in client.chat.completions.create(**asked, stream=True):
    delta = chunk.choices[0].delta
    pieces += [delta.content] * bool(delta.content) + getattr(delta, 'images', [])
  assert [piece if isinstance(piece, str) else None for piece in pieces] == kinds
  for parts in (answer.message.parts, pieces):
    assert near([pixels(part['image_url']['url']) for part in parts
                 if not isinstance(part, str) and 'image_url' in part], by_command[1])


def test_steps_of_a_dialogue_are_streamed_where_they_are_asked_for(client):
  chunks = [chunk.model_dump() for chunk in client.chat.completions.create(
      model='tiny', messages=[dict(role='user', content=tiny.USER)], stream=True, seed=4,
      extra_body=dict(steps=2, progress=True))]
  steps = [chunk['progress']['step'] for chunk in chunks if 'progress' in chunk]
  assert steps == [1, 2] * tiny.ANSWER.count(None)
  assert not any(chunk['choices'][0]['delta'].get('content') for chunk in chunks
                 if 'progress' in chunk)


def test_dialogues_and_requests_share_the_device(engine, client):
  """A further turn with the images of the first one, two at a time, beside single requests."""
  url = f'data:image/png;base64,{base64.b64encode(to_png(picture(5))).decode()}'
  messages = [dict(role='user', content=[
      dict(type='text', text='and this?'), dict(type='image_url', image_url=dict(url=url))])]
  options = dict(model='tiny', messages=messages, max_tokens=4, seed=1,
                 extra_body=dict(steps=2, images=1, size='16x16'))

  def ask(_):
    return client.chat.completions.create(**options).choices[0].message.parts

  with concurrent.futures.ThreadPoolExecutor() as pool:
    answers = list(pool.map(ask, range(2)))
    single = pool.submit(alone, engine, text='a cross', size=SQUARE, seed=1)
  first, second = ([pixels(part['image_url']['url']) for part in parts if 'image_url' in part]
                   for parts in answers)
  assert len(first) == 1 and near(first, second) and single.result()
  answer = client.chat.completions.create(**options | dict(temperature=0.8, top_p=0.9))
  assert answer.choices[0].message.parts


def test_models_health_and_metrics(url, client):
  model, = client.models.list().data
  assert (model.id, model.sizes, model.images) == ('tiny', ['16x16', '32x16'], 2)
  assert client.models.retrieve('tiny').id == 'tiny'
  assert httpx.get(f'{url}/healthz').json()['status'] == 'ok'
  text = httpx.get(f'{url}/metrics', headers=BEARER).text
  assert 'jaxgen_programs_total 0.0' in text and 'jaxgen_queued 0.0' in text
  assert 'jaxgen_calls_total{route="/v1/models",status="200"} 1.0' in text


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize('asked, status, said', [
    (dict(size='17x16'), 400, 'this server draws 16x16, 32x16'),
    (dict(size='large'), 400, 'write WIDTHxHEIGHT'),
    (dict(n=9), 400, 'use 1 to 8'),
    (dict(n=2.5), 400, 'must be a whole number'),
    (dict(response_format='url'), 400, 'use b64_json'),
    (dict(model='dall-e-3'), 404, "this server has 'tiny'"),
    (dict(prompt='x' * 20_000), 400, 'it may have 16000'),
    (dict(prompt='a red circle ' * 100), 400, 'more than config.data.prompt_tokens'),
    (dict(prompt='half \ud83d'), 400, 'surrogate'),
    (dict(prompt=['a']), 400, 'must be a string'),
    (dict(steps='many'), 400, 'must be a whole number'),
    (dict(seed=-1), 400, 'use 0 to'),
    (dict(outputs=3), 400, 'use 1 to 2'),
    (dict(outputs=2, sizes=['16x16']), 400, 'give one for each'),
    (dict(guidance=float('nan')), 400, 'use 0 to 100'),
    (dict(guidance=10**400), 400, 'use 0 to 100'),
    (dict(image='/etc/passwd'), 400, 'no such field')])
def test_what_cannot_be_drawn_is_refused_in_one_line(url, asked, status, said):
  content = json.dumps(dict(prompt='a cross') | asked)
  assert said in tiny.error_of(httpx.post(url + DRAW, content=content, headers=BEARER), status)


@pytest.mark.parametrize('content', [
    b'', b'[]', b'{', b'\xff\xfe', b'[' * 100_000, b'{"n": ' + b'9' * 5000 + b'}', b'null'])
def test_bodies_that_are_no_objects(url, content):
  assert 'body: ' in tiny.error_of(httpx.post(url + DRAW, content=content, headers=BEARER), 400)


@pytest.mark.parametrize('messages, said', [
    ([], 'send a list'), ('hello', 'send a list'), ([dict(role='tool')], 'use system'),
    ([dict(role='user', content=[dict(type='audio')])], 'each part is'),
    ([dict(role='user', content=[dict(type='text', text='')] * 2000)], 'more than 1024 texts'),
    ([dict(role='user', content='hi'), dict(role='assistant', content='ho')], 'nothing to answer'),
    *(([dict(role='user', content=[dict(type='image_url', image_url=dict(url=url))])], said)
      for url, said in (
          ('file:///etc/passwd', 'opens no addresses'), ('/etc/passwd', 'opens no addresses'),
          ('http://127.0.0.1:1/a.png', 'opens no addresses'), (7, 'must be a string'),
          ('data:image/png;base64,aGVsbG8=', 'cannot be read')))])
def test_messages_that_are_none(url, messages, said):
  answer = httpx.post(url + CHAT, json=dict(messages=messages), headers=BEARER)
  assert said in tiny.error_of(answer, 400)


def test_keys_and_errors_are_those_of_the_client(url, client):
  with pytest.raises(openai.BadRequestError) as found:
    client.images.generate(prompt='a cross', size='512x512')
  assert found.value.type == 'invalid_request_error'
  with pytest.raises(openai.AuthenticationError):
    openai.OpenAI(base_url=f'{url}/v1', api_key=KEY[:-1], max_retries=0).models.list()
  for headers in ({}, dict(authorization=KEY), dict(authorization=f'Basic {KEY}')):
    assert 'no key' in tiny.error_of(httpx.get(f'{url}/v1/models', headers=headers), 401)
  for origin in ('http://elsewhere.example', 'null'):
    answer = httpx.get(f'{url}/v1/models', headers=BEARER | dict(origin=origin))
    assert 'other web pages' in tiny.error_of(answer, 403)
  assert httpx.get(f'{url}/v1/models', headers=BEARER | dict(origin=url)).status_code == 200
  with pytest.raises(openai.NotFoundError):
    client.embeddings.create(model='tiny', input='text')
  assert 'Method' in tiny.error_of(httpx.get(url + DRAW, headers=BEARER), 405)


def bomb(side: int) -> bytes:
  """A PNG of few bytes that says it has side x side pixels."""
  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
          + chunk(b'IDAT', zlib.compress(bytes(side * 3 + 1))) + chunk(b'IEND', b''))


@pytest.mark.parametrize('data, status, said', [
    (b'', 400, 'cannot be read'), (b'GIF89a', 400, 'cannot be read'),
    (b'%!PS-Adobe-3.0 EPSF-3.0', 400, 'cannot be read'),
    (to_png(picture(1))[:-200], 400, 'cannot be read'), (bomb(2000), 400, 'may have 1000000'),
    (bomb(60_000), 400, 'pixels'), (bytes(2**18 + 1), 413, 'may have 262144')])
def test_uploads_that_are_no_images_or_too_large(url, data, status, said):
  answer = httpx.post(url + EDITS, files=[('image', ('a.png', data))], data=dict(prompt='x'),
                      headers=BEARER)
  assert said in tiny.error_of(answer, status)


def test_forms_that_are_broken_or_too_large(url):
  image = ('image', ('a.png', to_png(picture(1))))

  def said(status, more=(), **sent):
    return tiny.error_of(httpx.post(url + EDITS, headers=BEARER | dict(more), **sent), status)

  assert 'send a form' in said(415, json=dict(prompt='x'))
  assert 'missing' in said(400, files=[('prompt', (None, 'x'))])
  assert 'no such field' in said(400, files=[image, ('path', (None, '/etc/passwd'))])
  assert 'files are sent as image' in said(400, files=[image, ('mask', ('m.png', b'x'))])
  assert 'Too many files' in said(400, files=[image] * 9)
  assert 'one request of this model may have 2' in said(400, files=[image] * 3)
  for kind, content, message in (
      ('; boundary=x', b'--x\r\nnonsense', 'missing'),
      ('', b'--x\r\n', 'request: Missing boundary'),
      ('; boundary=x', b'--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--', 'request: ')):
    assert message in said(400, content=content, more={
        'content-type': f'multipart/form-data{kind}'})
  assert 'too large' in said(413, content=bytes(2**20 + 1))
  endless = httpx.post(url + DRAW, headers=BEARER, content=(bytes(2**16) for _ in range(32)))
  assert 'too large' in tiny.error_of(endless, 413)  # its length was not said


# --- Clients that leave, and too many of them -----------------------------------------------------


def raw(url: str, content: bytes, length: int | None = None, room: int = 0) -> socket.socket:
  """A connection that has sent a call; ``length`` says how long it claims to be, ``room`` how many
  bytes of its answer the kernel holds."""
  host, _, port = url.removeprefix('http://').partition(':')
  found = socket.socket()
  if room:
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
  found.connect((host, int(port)))
  head = (f'POST {DRAW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n'
          f'Content-Length: {len(content) if length is None else length}\r\n\r\n')
  found.sendall(head.encode() + content)
  return found


def whole(call: socket.socket) -> tuple[int, bytes]:
  """Status and body of the answer, in however many pieces they come."""
  with http.client.HTTPResponse(call) as answer:
    answer.begin()
    return answer.status, answer.read()


def test_what_clients_that_left_asked_for_is_not_drawn(engine, url, caplog):
  left, jobs = engine.counts.left, engine.counts.jobs
  with tiny.held(engine):
    calls = [raw(url, json.dumps(dict(prompt='x', n=4, stream=stream)).encode())
             for stream in (False, True)]
    assert until(lambda: engine.queued == 8)
    for call in calls:
      call.close()
    assert until(lambda: all(ticket.future.cancelled() for ticket in list(engine._waiting)))
  assert until(lambda: engine.counts.left == left + 8) and engine.counts.jobs == jobs
  assert alone(engine, text='a cross', size=SQUARE)
  gc.collect()  # where asyncio says what nobody has asked for
  assert 'never retrieved' not in caplog.text


def test_a_full_queue_says_when_to_come_again(engine, url, client):
  job = engine.drawer.prepare(make_request(engine.drawer.run.config, 'x', size=SQUARE), 1)
  with tiny.held(engine):
    tickets = engine.submit([job] * (engine.limits.queue - 1))
    with pytest.raises(openai.RateLimitError) as found:
      client.images.generate(prompt='x', n=2)
    assert int(found.value.response.headers['retry-after']) >= 1
    with pytest.raises(openai.APIStatusError) as found:
      client.images.generate(prompt='x', extra_body=dict(timeout=0.3))
    assert found.value.status_code == 504
    late, = engine.submit([job], seconds=0.01)
  assert all(len(ticket.future.result(60)) == 1 for ticket in tickets)
  with pytest.raises(Late):
    late.future.result(60)
  assert client.images.generate(prompt='x', extra_body=dict(steps=1)).data


def test_calls_whose_images_are_not_read_yet_are_counted(engine):
  calls, free = Calls(engine, dataclasses.replace(engine.limits, queue=5)), threading.Event()

  async def ask():
    reading = [asyncio.create_task(calls.prepared(lambda: free.wait(60))) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Refused, match='5 calls are being read') as found:
      await calls.prepared(list)
    free.set()
    assert found.value.retry_after and all(await asyncio.gather(*reading))
    assert await calls.prepared(list) == []

  asyncio.run(ask())


def sent(content: bytes, kind: str = 'application/json') -> Request:
  """A call that has arrived."""
  async def receive() -> Message:
    return dict(type='http.request', body=content, more_body=False)

  return Request(dict(type='http', method='POST', headers=[(b'content-type', kind.encode())]),
                 receive)


def test_few_images_and_large_bodies_are_read_at_one_time(engine):
  """Whichever route they come by."""
  calls, free = Calls(engine, engine.limits), threading.Event()
  form = httpx.Request('POST', 'http://x', data=dict(prompt='x'), files=dict(image=b'GIF89a'))
  part = dict(type='image_url', image_url=dict(url='data:image/png;base64,aGVsbG8='))
  shown = json.dumps(dict(messages=[dict(role='user', content=[part])])).encode()

  async def ask():
    reading = [asyncio.create_task(calls.prepared(lambda: free.wait(60)))
               for _ in range(PREPARED_AT_ONCE)]
    images = ImagesApi(calls, 'tiny')
    asked = [asyncio.create_task(answer) for answer in (
        images.edits(sent(form.read(), form.headers['content-type'])),
        ChatApi(calls, 'tiny').completions(sent(shown)),
        images.generations(sent(b'[' * 2**15 + b' ' * 2**16)),
        images.generations(sent(b'[' * 2**17)))]
    done, _ = await asyncio.wait(asked, timeout=1)
    assert not done
    free.set()
    for answer, said in zip(asked, ('image\\[0\\]: cannot be read', 'image_url: cannot be read',
                                    'body: is not JSON', 'body: more than 65536 values')):
      with pytest.raises(ApiError, match=said):
        await answer
    assert all(await asyncio.gather(*reading))

  asyncio.run(ask())


def test_others_are_answered_while_a_large_body_is_parsed(engine):
  """Again and again: one that came before the parsing would wait for its end."""
  body = b'{"no": [' + b','.join([b'"' + b'\\n' * 2**17 + b'"'] * 256) + b']}'
  limits = dataclasses.replace(engine.limits, body=len(body), upload=60.0)
  answered = 0
  with tiny.serving(Engine(engine.drawer, limits)) as url, concurrent.futures.ThreadPoolExecutor(
      ) as pool, httpx.Client() as health:
    call = raw(url, body[:-1], length=len(body))
    answer = pool.submit(whole, call)
    call.sendall(body[-1:])
    while not answer.done():
      health.get(f'{url}/healthz', timeout=300)
      answered += 1
  status, text = answer.result()
  assert status == 400 and b'no such field' in text
  assert answered > 5


def test_a_client_that_sends_slowly_is_not_waited_for(url):
  for length, status in ((100, 504), (2**20 + 1, 413)):
    call = raw(url, b'{"prompt": ', length=length)
    call.settimeout(20)
    assert whole(call)[0] == status


def test_a_client_that_does_not_take_its_answer_is_dropped(engine):
  """A whole answer, and one that is streamed; those who read have theirs meanwhile."""
  with tiny.serving(engine, unsent=2**12) as url:
    def ended(status: int) -> bool:
      return (f'jaxgen_calls_total{{route="{DRAW}",status="{status}"}} 2.0'
              in httpx.get(f'{url}/metrics').text)

    asked = [json.dumps(dict(
        prompt='x', size='32x16', n=8, outputs=2, steps=1, stream=stream)).encode()
             for stream in (False, True)]
    calls = [raw(url, content, room=2**12) for content in asked]
    for content in asked:
      text = httpx.post(url + DRAW, content=content, timeout=300).text
      assert text.count('"b64_json"') == 16 and len(text) > 2**14
    assert until(lambda: ended(499)) and ended(200)
    for call in calls:
      call.settimeout(20)
      received = b''.join(iter(lambda: call.recv(2**16), b''))
      assert b' 200 OK' in received and received.count(b'"b64_json"') < 16


# --- The load -------------------------------------------------------------------------------------


@pytest.mark.parametrize('count, clients', [
    (24, 6), pytest.param(200, 16, marks=pytest.mark.slow)])
def test_no_answer_is_lost_and_each_is_that_of_the_request_alone(engine, url, bench, count,
                                                                 clients):
  client = openai.OpenAI(base_url=f'{url}/v1', api_key=KEY, max_retries=8, timeout=600)
  asked = bench.mixed(client, count, steps=(1, 2, 3))
  one_by_one = bench.load(client, asked, 1)
  batches = engine.counts.batches
  together = bench.load(client, asked, clients)
  assert None not in one_by_one.images and None not in together.images
  assert bench.apart(one_by_one, together) == 0
  assert engine.counts.batches - batches < sum(each.fields.get('n', 1) for each in asked)
  assert together.summary()['images_per_s'] > 0 and engine.counts.programs == 0
