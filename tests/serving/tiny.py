"""A tiny DuetGen that draws, edits, and says what stands in a script; and a server of it."""

import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import jax
import numpy as np
from PIL import Image

from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.sampling.load import Run
from jaxgen.serving.app import Listener
from jaxgen.serving.app import make_app
from jaxgen.serving.commands import bound
from jaxgen.serving.drawer import Drawer
from jaxgen.serving.engine import Engine
from jaxgen.serving.limits import Limits
from jaxgen.sharding.mesh import make_mesh
from tests.sampling import scripted

SIZES = ((16, 16), (16, 32))  # (height, width)
USER = 'a red circle, then a blue square'
ANSWER = ('a red circle.', None, 'a blue square.', None, 'done.')
LIMITS = Limits(rows=2, outputs=2, images=2, steps=6, queue=24, tokens=24, upload=1.0, send=4.0,
                drain=10.0, body=2**20, image_bytes=2**18, pixels=10**6)


def make_run(tokenizer: str) -> Run:
  """With random weights; to ``USER`` it says ``ANSWER``."""
  config = scripted.duetgen(tokenizer)
  config.data.prompt_tokens = 160
  system, maker = scripted.scripted(config, [Sample('whole', (Part('user', text=USER), *(
      Part('target', image=scripted.picture(0), loss=True) if text is None else
      Part('assistant', text=text, loss=True) for text in ANSWER)))])
  return Run(config, system, scripted.random_params(config), maker)


def make_engine(run: Run, limits: Limits = LIMITS) -> Engine:
  """On one device; its programs are not compiled yet."""
  mesh = make_mesh(run.config.mesh, jax.devices()[:1])
  return Engine(Drawer(run, limits, SIZES, mesh), limits)


@contextlib.contextmanager
def serving(engine: Engine, unsent: int = 0, **options) -> Iterator[str]:
  """The address of a server of the engine at a free port of this machine; see ``make_app``.

  Args:
    engine: of the server.
    unsent: bytes of answers that the kernel holds; 0 = as many as it likes.
    **options: of ``make_app``.
  """
  server = Listener(make_app(engine, 'tiny', **options), engine.limits)
  listening = bound('127.0.0.1', 0)
  if unsent:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, unsent)
  thread = threading.Thread(target=server.run, kwargs=dict(sockets=[listening]))
  thread.start()
  while not server.started:
    time.sleep(0.01)
  try:
    yield f'http://127.0.0.1:{listening.getsockname()[1]}'
  finally:
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def held(engine: Engine) -> Iterator[None]:
  """The engine does nothing meanwhile."""
  busy, free = threading.Event(), threading.Event()
  waiting = threading.Thread(target=engine.run, args=(lambda: (busy.set(), free.wait(60)),))
  waiting.start()
  busy.wait(60)
  try:
    yield
  finally:
    free.set()
    waiting.join()


def error_of(answer: httpx.Response, status: int) -> str:
  """The message of an error in OpenAI's schema."""
  assert answer.status_code == status, answer.text
  error = answer.json()['error']
  assert set(error) == {'message', 'type', 'param', 'code'} and '\n' not in error['message']
  return error['message']


def near(left, right) -> bool:
  """Equal up to rounding to 8 bits at the last step."""
  return len(left) == len(right) and all(
      a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 1
      for a, b in zip(left, right))


def pixels(text: str) -> np.ndarray:
  """The image of a data URL, or of base64 alone."""
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.rpartition(',')[2]))))
