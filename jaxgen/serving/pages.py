"""The web page at ``/``: mounted behind a door that opens only what the page itself asks for."""

import asyncio
import contextlib
import html
import json
import os
import pathlib
import tempfile
from collections.abc import AsyncIterator
from collections.abc import Iterator
from typing import Any

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read while it is imported
import gradio as gr
from starlette.applications import Starlette
from starlette.routing import Match
from starlette.routing import Mount
from starlette.types import ASGIApp
from starlette.types import Message
from starlette.types import Receive
from starlette.types import Scope
from starlette.types import Send

from jaxgen.serving.asked import Server
from jaxgen.serving.chat_tab import Chat
from jaxgen.serving.demo import CSS
from jaxgen.serving.demo import Page
from jaxgen.serving.engine import Engine
from jaxgen.serving.errors import ApiError
from jaxgen.serving.gate import Keys
from jaxgen.serving.gate import too_large
from jaxgen.serving.inner import Inner

API = '/gradio_api'
# A browser sends and fetches nothing elsewhere, and shows the page in no frame of others.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
ASSETS = ('/assets/', '/static/', '/svelte/')
JOIN, FILE = f'{API}/queue/join', f'{API}/file='
JOINING = 2**18  # bytes of a call to JOIN, which names images and does not hold them
# What a browser that has opened the page asks for; Gradio has more, as a proxy of other addresses.
ROUTES = (*ASSETS, '/config', '/theme.css', '/login', '/logout', '/favicon.ico', '/manifest.json',
          '/robots.txt', f'{API}/upload', f'{API}/queue/data', f'{API}/cancel', f'{API}/heartbeat/',
          f'{API}/startup-events', JOIN, FILE)


class Pages(Mount):
  """The route of the page, of all paths but those of the API.

  Args:
    engine: that draws.
    model: name of what is served.
    keys: of the server; who signs in gives one as the password.
    inner: calls the API.
    server: for commands of a shell.
  """

  def __init__(self, engine: Engine, model: str, keys: Keys, inner: Inner, server: Server):
    self._inner = inner
    self._folder = tempfile.TemporaryDirectory(prefix='jaxgen-page-')
    folder = os.path.realpath(self._folder.name)
    os.environ['GRADIO_TEMP_DIR'] = folder  # of uploads, and of images that are shown
    self._outer = Starlette()
    gr.mount_gradio_app(
        self._outer, _blocks(Page(engine, inner, server, folder), model, engine), path='/', css=CSS,
        footer_links=[], run_history=False, ssr_mode=False, mcp_server=False, pwa=False,
        enable_monitoring=False, max_file_size=engine.limits.image_bytes,
        auth=(lambda name, key: keys.open(f'Bearer {key}')) if keys.needed else None,
        auth_message='Any user name, and a key of this server as the password.')
    self._gradio = self._outer.routes[-1].app
    super().__init__('/', Door(self._gradio, folder))

  def matches(self, scope: Scope) -> tuple[Match, Scope]:
    """All paths but those of the API, whose refusals are its own."""
    if scope['type'] != 'http' or scope['path'].startswith('/v1'):
      return Match.NONE, {}
    return super().matches(scope)

  @contextlib.asynccontextmanager
  async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
    """The time between start and stop of the application."""
    del app
    with self._folder:
      async with self._outer.router.lifespan_context(self._outer):
        yield

  async def close(self) -> None:
    """Lets browsers go once they have what they asked for; they would hold a server that stops."""
    while self._inner.active:
      await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # the last pictures are on their way
    self._gradio.stop_event.set()


class Door:
  """ASGI middleware in front of Gradio.

  Files are named by those whom they are shown to. Gradio checks paths only where it has started its
  own server, and fetches what is an address.

  Args:
    app: Gradio's.
    folder: that all files are in.
  """

  def __init__(self, app: ASGIApp, folder: str):
    self._app, self._folder = app, folder

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    path = scope['path']
    if path != '/' and not path.startswith(ROUTES):
      raise ApiError(404, 'request: Not Found')
    if path.startswith(ASSETS):
      scope.setdefault('state', {})['quiet'] = True
    if path.startswith(FILE):
      self._check(path.removeprefix(FILE))
    if path == JOIN:
      receive = await self._checked(receive)

    async def answer(message: Message) -> None:
      if message['type'] == 'http.response.start':
        message['headers'] = [*message['headers'], (b'content-security-policy', POLICY)]
      await send(message)

    await self._app(scope, receive, answer)

  async def _checked(self, receive: Receive) -> Receive:
    """``receive`` of a call whose files were all looked at.

    It is short, so that looking at it keeps nobody waiting.
    """
    body, more = b'', True
    while more:
      message = await receive()
      body += message.get('body', b'')
      more = message.get('more_body', False)
      if len(body) > JOINING:
        raise too_large(JOINING)
    try:
      found = json.loads(body)
    except (ValueError, RecursionError):
      raise ApiError(400, 'body: is not JSON', code='invalid_json') from None
    for path in _paths(found):
      self._check(path)
    whole: list[Message] = [dict(type='http.request', body=body, more_body=False)]

    async def again() -> Message:
      return whole.pop() if whole else await receive()

    return again

  def _check(self, path: Any) -> None:
    """Refuses a file that is not in the folder."""
    with contextlib.suppress(TypeError, ValueError):
      if pathlib.Path(os.path.realpath(path)).is_relative_to(self._folder):
        return
    raise ApiError(403, 'path: names no image that was uploaded', param='path', code='forbidden')


def _paths(value: Any) -> Iterator[Any]:
  """All that stands under the name ``path`` in JSON, however deep."""
  left = [value]
  while left:
    value = left.pop()
    if isinstance(value, dict):
      yield from ([value['path']] if value.get('path') is not None else [])
      left += value.values()
    elif isinstance(value, list):
      left += value


def _blocks(page: Page, model: str, engine: Engine) -> gr.Blocks:
  """The page: a tab that draws, and one for dialogues where the model writes."""
  with gr.Blocks(title=model, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
    gr.HTML(f'<h2>{html.escape(model)}</h2>')
    with gr.Tab('Draw'):
      page.draw_tab()
    if engine.drawer.reads:
      with gr.Tab('Dialogue'):
        Chat(page).tab()
  # Its queue waits for the engine's, which is the one that batches and refuses.
  blocks.queue(api_open=False, max_size=engine.limits.queue,
               default_concurrency_limit=engine.limits.queue)
  return blocks
