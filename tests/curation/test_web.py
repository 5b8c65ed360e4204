"""Fetching: rules, limits and redirects of a real server; nothing private is asked by default."""

import http.server
import pathlib
import threading
import time

import pytest

from jaxgen.core.errors import UserError
from jaxgen.curation import web
from jaxgen.curation.commands import curate
from jaxgen.curation.engine import Job
from jaxgen.curation.models import Request
from jaxgen.curation.web import Web

SEEN = []
ROBOTS = b'User-agent: *\nDisallow: /private\n\nUser-agent: slow-bot\nCrawl-delay: 1\nDisallow:\n'


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers as the path says."""

  def log_message(self, *words):
    """Says nothing."""

  def do_GET(self):
    """One answer."""
    SEEN.append((self.path, self.headers['user-agent']))
    port = self.server.server_port
    if self.path == '/robots.txt':
      return self._send(200, ROBOTS)
    if self.path == '/moved':
      return self._send(302, b'', location='/private/x')
    if self.path == '/loop':
      return self._send(302, b'', location='/loop')
    if self.path == '/away':
      return self._send(302, b'', location=f'http://localhost:{port}/page')
    if self.path == '/flaky' and sum(path == '/flaky' for path, _ in SEEN) < 3:
      return self._send(200, b'half', length=99)
    return self._send(404 if self.path == '/none' else 200, b'x' * 100
                      if self.path == '/large' else b'hello')

  def _send(self, status, data, location='', length=None):
    self.send_response(status)
    if location:
      self.send_header('location', location)
    self.send_header('content-length', str(len(data) if length is None else length))
    self.end_headers()
    self.wfile.write(data)
    self.close_connection = True


@pytest.fixture(scope='module')
def address():
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f'http://127.0.0.1:{server.server_port}'
  server.shutdown()


def local(agent='bot (me@here)'):
  return Web('web', agent, public=lambda found: True, pause=0.0)


def test_bytes_come_with_rules_kept(address):
  SEEN.clear()
  page, secret, moved = local().ask([Request(address + path)
                                     for path in ('/page', '/private/x', '/moved')])
  assert page.images == (b'hello',) and secret.error == moved.error == 'robots.txt'
  assert [path for path, _ in SEEN] == ['/robots.txt', '/page', '/moved']
  assert {agent for _, agent in SEEN} == {'bot (me@here)'}


@pytest.mark.parametrize('path, reason', [
    ('/none', 'status 404'), ('/loop', 'too many redirects'), ('/large', 'too large')])
def test_what_gives_nothing_has_a_reason(address, monkeypatch, path, reason):
  monkeypatch.setattr(web, 'MOST', 64)
  assert local().ask([Request(address + path)])[0].error == reason


def test_a_torn_answer_is_asked_for_again(address):
  assert local().ask([Request(address + '/flaky')])[0].images == (b'hello',)


@pytest.mark.parametrize('url', [
    'http://127.0.0.1:80/', 'http://localhost/', 'http://[::1]/', 'http://10.0.0.1/',
    'http://169.254.169.254/latest/meta-data', 'http://0.0.0.0/', 'http://192.168.1.1/'])
def test_nothing_private_is_asked(url):
  assert Web('web', 'bot', pause=0.0).ask([Request(url)])[0].error == 'private address'
  with pytest.raises(web.Refused, match='private address'):
    Web('web', 'bot', pause=0.0)._get(url, 99)


def test_a_redirect_to_a_private_address_is_not_followed(address):
  """The first host counts as public here, its other name does not."""
  fetcher = Web('web', 'bot', public=lambda found: True, pause=0.0)
  check = fetcher._public_address

  def seen(url):
    if 'localhost' in url:
      fetcher._public = lambda found: False
    return check(url)
  fetcher._public_address = seen
  SEEN.clear()
  assert fetcher.ask([Request(address + '/away')])[0].error == 'private address'
  assert [path for path, _ in SEEN] == ['/robots.txt', '/away']


@pytest.mark.parametrize('url', ['file:///etc/passwd', 'ftp://a.org/x', 'http://me:pw@a.org/',
                                 'http://a.org:99999/', 'nothing', 'http://'])
def test_only_addresses_of_the_web(url):
  assert local().ask([Request(url)])[0].error == 'no address of the web'


def test_a_host_is_given_the_pause_that_it_asks_for(address):
  fetcher = local('slow-bot')
  began = time.monotonic()
  fetcher.ask([Request(address + '/page')])
  assert time.monotonic() - began > 0.9  # behind robots.txt


def test_a_recipe_fetches_by_an_explicit_flag_only(tmp_path):
  (tmp_path / 'in.jsonl').write_text('{"id": "a", "url": "http://127.0.0.1/x", "licence": "MIT"}\n'
                                     '{"id": "b"}\n')
  (tmp_path / 'recipe.py').write_text('''
from jaxgen.curation import readers, web
from jaxgen.curation.recipe import Recipe, Stage, Use

def get_recipe():
  return Recipe(readers.rows, [Stage(web.fetched, web=Use('web'), into='page')],
                models={'web': 'web:'})
''')
  words = str(tmp_path / 'recipe.py'), str(tmp_path / 'in.jsonl'), str(tmp_path / 'out')
  with pytest.raises(UserError, match='--fetch = .*allow it'):
    curate(Job(*words))
  assert not pathlib.Path(words[2]).exists()
  tally = curate(Job(*words, fetch='bot (me@here)'))
  assert tally.stages[0].dropped == {'not fetched: private address': 1, 'no address': 1}
