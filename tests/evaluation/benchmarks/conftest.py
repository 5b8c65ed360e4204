"""The endpoint of ``endpoint.py``, started once for a file of tests."""

import json
import pathlib
import subprocess
import sys
import urllib.request

import pytest


class Endpoint:
  """A running endpoint."""

  def __init__(self, port: str):
    self.url = f'http://127.0.0.1:{port}/v1'

  def stats(self):
    """``calls``, ``most`` at once and ``bodies`` so far."""
    with urllib.request.urlopen(self.url.removesuffix('/v1') + '/stats') as answer:
      return json.loads(answer.read())


@pytest.fixture(scope='module')
def endpoint():
  """A judge that is there."""
  program = pathlib.Path(__file__).parent / 'endpoint.py'
  with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True
                        ) as process:
    yield Endpoint(process.stdout.readline().strip())
    process.terminate()


@pytest.fixture
def key(monkeypatch):
  """The key that the endpoint takes."""
  monkeypatch.setenv('OPENAI_API_KEY', 'right')
