"""The part of the Hugging Face hub's interface that an upload needs, on this machine.

Small files come in the commit; files of ``LARGE`` bytes and more go the way of Git LFS before it.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

TOKEN = 'hf_of_a_test'
LARGE = 20_000
OWNER = 'owner'


class Hub:
  """What a server holds.

  Attributes:
    repositories: name -> path -> bytes.
    messages: of all commits.
    url: of the server.
    refuses: part of the paths that are answered with 403; '' refuses none.
  """

  def __init__(self):
    self.repositories: dict[str, dict[str, bytes]] = {}
    self.messages: list[str] = []
    self.objects: dict[str, bytes] = {}
    self.url = self.refuses = ''

  def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, object]:
    """Status and JSON for a request."""
    if method == 'PUT':  # an object of Git LFS, to an address that holds its own permission
      self.objects[path.rpartition('/')[2]] = body
      return 200, {}
    if token != TOKEN:
      return 401, {'error': 'Invalid username or password.'}
    if self.refuses and self.refuses in path:
      return 403, {'error': 'You do not have the rights'}
    if path == '/api/whoami-v2':
      return 200, {'type': 'user', 'name': OWNER, 'auth': {}}
    if path == '/api/repos/create':
      asked = json.loads(body)
      if asked['organization'] != OWNER:
        return 403, {'error': 'You do not have the rights to create a model there'}
      name = f'{asked["organization"]}/{asked["name"]}'
      self.repositories.setdefault(name, {})
      return 200, {'url': f'{self.url}/{name}'}
    if path == '/api/validate-yaml':
      return 200, {'errors': [], 'warnings': []}
    if path.endswith('/info/lfs/objects/batch'):
      return 200, {'transfer': 'basic', 'objects': [
          {**wanted, 'actions': {'upload': {'href': f'{self.url}/objects/{wanted["oid"]}'}}}
          for wanted in json.loads(body)['objects']]}
    name = '/'.join(path.split('/')[3:5])
    if name not in self.repositories:
      return 404, {'error': 'Repository not found'}
    if '/preupload/' in path:
      return 200, {'files': [
          {'path': file['path'], 'uploadMode': 'lfs' if file['size'] >= LARGE else 'regular',
           'shouldIgnore': False} for file in json.loads(body)['files']]}
    if '/commit/' in path:
      self._commit(self.repositories[name], [json.loads(line) for line in body.splitlines()])
      return 200, {'commitUrl': f'{self.url}/{name}/commit/{"0" * 40}', 'commitOid': '0' * 40}
    return 404, {'error': f'{method} {path}'}

  def _commit(self, files: dict[str, bytes], lines: list[dict]) -> None:
    for line in lines:
      value = line['value']
      if line['key'] == 'header':
        self.messages.append(value['summary'])
      elif line['key'] == 'file':
        files[value['path']] = base64.b64decode(value['content'])
      else:
        content = self.objects[value['oid']]
        assert line['key'] == 'lfsFile' and hashlib.sha256(content).hexdigest() == value['oid']
        files[value['path']] = content


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
  """A hub on a free port of the loopback."""
  hub = Hub()

  class Handler(http.server.BaseHTTPRequestHandler):
    """Passes requests to the hub."""

    def _pass(self) -> None:
      body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
      token = (self.headers.get('Authorization') or '').removeprefix('Bearer ')
      status, found = hub.answer(self.command, self.path.partition('?')[0], body, token)
      data = json.dumps(found).encode()
      self.send_response(status)
      self.send_header('Content-Type', 'application/json')
      self.send_header('Content-Length', str(len(data)))
      self.end_headers()
      self.wfile.write(data)

    do_GET = do_POST = do_PUT = _pass

    def log_message(self, *args) -> None:
      """Says nothing."""

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  hub.url = f'http://127.0.0.1:{server.server_port}'
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


@contextlib.contextmanager
def logged_in() -> Iterator[Hub]:
  """A hub that this process talks to, with a token that it knows."""
  with serving() as hub, pytest.MonkeyPatch.context() as patch:
    patch.setattr(constants, 'HF_HUB_OFFLINE', False)
    patch.setattr(constants, 'HF_HUB_DISABLE_XET', True)  # Git LFS instead
    patch.setenv('HF_ENDPOINT', hub.url)
    patch.setenv('HF_TOKEN', TOKEN)
    yield hub
