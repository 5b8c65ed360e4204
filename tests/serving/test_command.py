"""``jaxgen serve`` as a process: SIGTERM and kill during work, its keys, its place and its log."""

import signal
import socket

import httpx
import openai
import pytest

from jaxgen.core.errors import UserError
from jaxgen.flags.serve import LIMITS
from jaxgen.serving.commands import bound
from jaxgen.serving.commands import read_keys
from jaxgen.serving.limits import Limits
from tests.serving.process import Server


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
