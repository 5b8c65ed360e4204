"""A server that speaks the part of the Hugging Face hub's API that uploads use.

Large files come by Git LFS: Xet, which the client prefers, needs storage servers of its own.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

TOKEN, OWNER = 'hf_of_the_tests', 'owner'


class Hub:
  """What the server holds and how it answers.

  Attributes:
    files: repository -> path -> contents, as its last commit left them.
    refuses: regex of request paths that are answered with ``refusal``.
    refusal: status and message.
    endpoint: URL of the server.
  """

  def __init__(self):
    self.files: dict[str, dict[str, bytes]] = {}
    self.refuses, self.refusal = '', (403, 'not today')
    self.endpoint, self.large = '', {}

  def reply(self, path: str, token: str, body: bytes) -> tuple[int, dict]:
    """Status and JSON for a request."""
    path = path.partition('?')[0]
    if self.refuses and re.search(self.refuses, path):
      return self.refusal[0], {'error': self.refusal[1]}
    if path.startswith('/large/'):  # its address is signed, in place of a token
      assert hashlib.sha256(body).hexdigest() == path.rpartition('/')[2]
      self.large[path.rpartition('/')[2]] = body
      return 200, {}
    if token != f'Bearer {TOKEN}':
      return 401, {'error': 'Invalid username or password.'}
    if path == '/api/whoami-v2':
      return 200, {'type': 'user', 'name': OWNER, 'auth': {'accessToken': {'role': 'write'}}}
    if path == '/api/validate-yaml':
      return 200, {'errors': [], 'warnings': []}
    asked = [json.loads(line) for line in body.splitlines()] or [{}]
    if path == '/api/repos/create':
      return self._create(f'{asked[0].get("organization") or OWNER}/{asked[0]["name"]}')
    repository, call = re.fullmatch(
        r'(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?(?:/(.*))?', path).groups()
    return self._call(repository, call or '', asked)

  def _create(self, repository: str) -> tuple[int, dict]:
    if not repository.startswith(f'{OWNER}/'):
      return 403, {'error': f'You have no rights to create {repository}'}
    known = repository in self.files
    self.files.setdefault(repository, {})
    return (409 if known else 200), {'url': f'{self.endpoint}/{repository}', 'id': repository,
                                     'name': repository}

  def _call(self, repository: str, call: str, asked: list[dict]) -> tuple[int, dict]:
    if repository not in self.files:
      return 404, {'error': f'Repository {repository} not found'}
    if not call:
      return 200, {'id': repository, 'sha': '0' * 40, 'siblings': [
          {'rfilename': path} for path in self.files[repository]]}
    if call.startswith('preupload/'):
      return 200, {'files': [
          {'path': file['path'], 'shouldIgnore': False,
           'uploadMode': 'lfs' if file['path'].endswith('.safetensors') else 'regular'}
          for file in asked[0]['files']]}
    if call == 'info/lfs/objects/batch':
      return 200, {'transfer': 'basic', 'objects': [
          {'oid': each['oid'], 'size': each['size'],
           'actions': {'upload': {'href': f'{self.endpoint}/large/{each["oid"]}'}}}
          for each in asked[0]['objects']]}
    if call.startswith('commit/'):
      return self._commit(repository, asked)
    return 400, {'error': f'{call} is not known here'}

  def _commit(self, repository: str, lines: list[dict]) -> tuple[int, dict]:
    for line in lines:
      value = line['value']
      if line['key'] == 'file':
        assert value['encoding'] == 'base64'
        self.files[repository][value['path']] = base64.b64decode(value['content'])
      elif line['key'] == 'lfsFile':
        self.files[repository][value['path']] = self.large[value['oid']]
    return 200, {'success': True, 'commitOid': '1' * 40, 'hookOutput': '',
                 'commitUrl': f'{self.endpoint}/{repository}/commit/{"1" * 40}'}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
  """A hub on a free port of this machine."""
  hub = Hub()

  class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from ``hub``."""

    protocol_version = 'HTTP/1.1'

    def answer(self):
      body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
      status, reply = hub.reply(self.path, self.headers.get('Authorization', ''), body)
      data = json.dumps(reply).encode()
      self.send_response(status)
      self.send_header('Content-Type', 'application/json')
      self.send_header('Content-Length', str(len(data)))
      self.end_headers()
      self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *args):
      """The tests are silent."""

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    hub.endpoint = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
      yield hub
    finally:
      server.shutdown()
      thread.join()


@contextlib.contextmanager
def online(hub: Hub, token: str = TOKEN) -> Iterator[None]:
  """This process talks to the hub, logged in."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(constants, 'HF_HUB_OFFLINE', False)
    patch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    patch.setenv('HF_ENDPOINT', hub.endpoint)
    patch.setenv('HF_TOKEN', token)
    yield
