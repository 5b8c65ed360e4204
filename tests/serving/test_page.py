"""What the page at ``/`` lets through, by calls that no browser sends; see ``browser`` for those.

The programs of the engine are not compiled: nothing here is drawn.
"""

import json
import re
import shlex
import sys
from urllib.parse import quote

import httpx
import pytest

from jaxgen.core.image_files import to_png
from jaxgen.serving import asked
from tests.sampling.scripted import picture
from tests.serving import tiny

KEY = 'a key of sixteen letters or more'
SERVER = asked.Server(['--workdir=runs/mine'])
JOIN, FILE = '/gradio_api/queue/join', '/gradio_api/file='


@pytest.fixture(scope='module')
def engine(tiny_tokenizer):
  return tiny.make_engine(tiny.make_run(tiny_tokenizer))


@pytest.fixture(scope='module')
def url(engine):
  with tiny.serving(engine, page=SERVER) as url:
    yield url


def test_the_page_asks_nobody_else(url):
  answer = httpx.get(url)
  text = answer.text
  assert "default-src 'self'" in answer.headers['content-security-policy']
  assert 'gradio' in text
  assert not re.search(r'(src|href)="(https?:)?//', text.replace(url, ''))
  config = json.loads(httpx.get(f'{url}/config').text)
  assert not config['analytics_enabled'] and config['max_file_size'] == tiny.LIMITS.image_bytes


def test_routes_of_the_api_stay_its_own(url):
  assert 'Not Found' in tiny.error_of(httpx.post(f'{url}/v1/embeddings', json={}), 404)
  assert 'Not Allowed' in tiny.error_of(httpx.get(url + asked.DRAW), 405)
  for path in ('/gradio_api/proxy=http://127.0.0.1:1/', '/gradio_api/run/predict', '/monitoring',
               '/gradio_api/stream/x', '/gradio_api/component_server', '/gradio_api/info'):
    assert 'Not Found' in tiny.error_of(httpx.get(url + path), 404)


@pytest.mark.parametrize('path', [
    '/etc/hostname', '../../etc/hostname', 'http://127.0.0.1:1/a.png', 'https://example.com/a.png',
    '', 7, ['a']])
def test_no_path_and_no_address_is_opened(url, path):
  if isinstance(path, str):
    assert 'names no image' in tiny.error_of(httpx.get(url + FILE + quote(path, safe='')), 403)
  image = {'path': path, 'meta': {'_type': 'gradio.FileData'}}
  body = dict(data=[[dict(image=image)]], fn_index=0, session_hash='x')
  assert 'names no image' in tiny.error_of(httpx.post(url + JOIN, json=body), 403)


@pytest.mark.parametrize('content', [b'', b'{', b'[' * 100_000])
def test_bodies_that_are_no_json(url, content):
  assert 'is not JSON' in tiny.error_of(httpx.post(url + JOIN, content=content), 400)


def test_deep_and_long_bodies_are_looked_at_whole(url):
  deep = b'[' * 900 + b'{"path": "/etc/hostname"}' + b']' * 900
  assert 'names no image' in tiny.error_of(httpx.post(url + JOIN, content=deep), 403)
  assert 'body: too large' in tiny.error_of(httpx.post(url + JOIN, content=b' ' * (2**18 + 1)), 413)


def test_what_was_uploaded_is_shown_and_large_files_are_not_taken(url):
  upload = f'{url}/gradio_api/upload'
  image = to_png(picture(1))
  path, = httpx.post(upload, files=[('files', ('a.png', image))]).json()
  assert httpx.get(url + FILE + path).content == image
  assert httpx.post(upload, files=[('files', ('a.png', bytes(2**18 + 1)))]).status_code == 413
  large = httpx.post(upload, files=[('files', ('a.png', bytes(2**20)))])
  assert 'too large' in tiny.error_of(large, 413)
  other = httpx.post(upload, files=[('files', ('a.png', image))],
                     headers=dict(origin='http://elsewhere.example'))
  assert 'other web pages' in tiny.error_of(other, 403)


def test_a_server_with_keys_has_a_page_for_those_who_sign_in(engine):
  with tiny.serving(engine, page=SERVER, keys=[KEY]) as url, httpx.Client(base_url=url) as client:
    files = [('files', ('a.png', to_png(picture(1))))]
    assert client.post('/gradio_api/upload', files=files).status_code == 401
    body = dict(data=[], fn_index=0, session_hash='x')
    assert client.post(JOIN, json=body).status_code == 401
    assert 'auth_required' in client.get('/').text
    for key, status in ((KEY[:-1], 400), (KEY, 200)):
      answer = client.post('/login', data=dict(username='me', password=key))
      assert answer.status_code == status
    assert client.post('/gradio_api/upload', files=files).status_code == 200


def test_without_its_package_the_page_is_a_line(engine, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  for module in ('pages', 'chat_tab', 'demo'):
    monkeypatch.delitem(sys.modules, f'jaxgen.serving.{module}', raising=False)
  with tiny.serving(engine, page=SERVER) as url:
    answer = httpx.get(url)
    assert answer.status_code == 501 and 'pip install "jaxgen[demo]"' in answer.text
    assert httpx.get(f'{url}/v1/models').status_code == 200


def test_a_server_may_have_no_page(engine):
  with tiny.serving(engine) as url:
    assert 'Not Found' in tiny.error_of(httpx.get(url), 404)


def words(command: str) -> list[str]:
  return shlex.split(command.replace('\\\n', ' '))


def test_commands_of_a_request():
  fields = dict(prompt="it's `$HOME` \u00e4\n", n=2, size='32x16', seed=3, steps=2, guidance=1.5)
  plain = asked.Asked(fields)
  sent = words(plain.curl(SERVER, 'http://127.0.0.1:1'))
  assert json.loads(sent[sent.index('-d') + 1]) == fields == json.loads(plain.json())
  assert words(plain.sample(SERVER)) == [
      'jaxgen', 'sample', '--workdir=runs/mine', *[f'--prompt={fields["prompt"]}'] * 2,
      '--size=16x32', '--seed=3', '--steps=2', '--guidance=1.5', '--out=drawn']
  edit = asked.Asked(fields, [asked.Given('source', 'my room.png', b'')])
  sent = words(edit.curl(asked.Server(guarded=True), 'http://127.0.0.1:1'))
  assert {'image=@my room.png', 'roles=source', 'seed=3', f'prompt={fields["prompt"]}',
          f'Authorization: Bearer ${asked.KEY}'} <= set(sent)
  unlike = asked.Asked(dict(prompt='', outputs=2, sizes=['32x16', '16x16']))
  assert 'at one size' in unlike.sample(SERVER) and '--prompt=' not in unlike.sample(SERVER)
