"""``jaxgen serve`` as a process: SIGTERM and kill during work, its keys, its place and its log."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import httpx
import numpy as np
import openai
import pytest

from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.flags.serve import LIMITS
from jaxgen.serving.commands import bound
from jaxgen.serving.commands import read_keys
from jaxgen.serving.limits import Limits
from jaxgen.systems.registry import make_system

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def workdir(tiny_config, tmp_path) -> str:
  """Of a tiny IOMM with random weights."""
  tiny_config.sampling.update(steps=2, guidance=1.0, rows=1)
  rng = np.random.default_rng(0)
  save_weights(str(tmp_path / 'run'), trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0, 0.1, leaf.shape)),
      make_system(tiny_config).shapes()), to_json(tiny_config))
  return str(tmp_path / 'run')


class Server:
  """A process of the command on one device."""

  def __init__(self, *flags: str):
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'jaxgen.cli', 'serve', '--port=0', *flags], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | dict(XLA_FLAGS='--xla_backend_optimization_level=0'))
    self.lines: list[str] = []
    self._reading = threading.Thread(target=lambda: self.lines.extend(self.process.stderr))
    self._reading.start()
    self.url = self.process.stdout.readline().split()[-1]

  def end(self, number: int) -> int:
    """Sends a signal and waits; the exit code."""
    self.process.send_signal(number)
    return self.process.wait(60)

  def calls(self) -> list[dict]:
    """Calls of the log, once the process has ended."""
    self._reading.join()
    return [line for line in map(json.loads, self.lines) if 'route' in line]


def test_sigterm_finishes_what_is_under_way_and_kill_does_not(workdir, tmp_path):
  keys = tmp_path / 'keys'
  keys.write_text('0123456789abcdef\n')
  for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
    server = Server(f'--workdir={workdir}', f'--api-key-file={keys}', '--outputs=1', '--images=0')
    client = openai.OpenAI(base_url=server.url, api_key='0123456789abcdef', max_retries=0)
    stream = client.images.generate(prompt='a very secret cross', n=4, stream=True,
                                    extra_body=dict(steps=100, seed=1))
    events = [next(iter(stream))]  # it is under way
    assert server.end(number) == code
    try:
      events += list(stream)
    except (httpx.HTTPError, openai.APIConnectionError):
      assert number == signal.SIGKILL
    kinds = [event.type for event in events]
    assert kinds.count('image_generation.completed') == (4 if number == signal.SIGTERM else 0)
    if number == signal.SIGTERM:
      call, = server.calls()
      assert (call['route'], call['status'], call['images']) == ('/v1/images/generations', 200, 4)
      assert not any('secret' in line for line in server.lines)


def test_a_port_that_is_taken_and_keys_that_are_none(tmp_path):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    with pytest.raises(UserError, match='cannot listen at 127.0.0.1'):
      bound('127.0.0.1', taken.getsockname()[1])
  with pytest.raises(UserError, match='no such file'):
    read_keys(str(tmp_path / 'none'))
  for text, said in (('\n', 'holds no key'), ('short', 'fewer than 16 characters')):
    (tmp_path / 'keys').write_text(text)
    with pytest.raises(UserError, match=said):
      read_keys(str(tmp_path / 'keys'))


def test_flags_name_the_defaults_of_the_limits():
  """They stand in both, so that no other command has to import the limits at its start."""
  shown = {name: default for name, (default, _) in LIMITS.items()}
  shown['seconds'] = shown.pop('timeout')
  assert {name: getattr(Limits(), name) for name in shown} == shown
