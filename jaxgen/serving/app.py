"""The ASGI application: routes of OpenAI's API, and the page, around one engine."""

import asyncio
import functools
import socket
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import PlainTextResponse
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from jaxgen.serving import asked
from jaxgen.serving.calls import Calls
from jaxgen.serving.chat_api import ChatApi
from jaxgen.serving.engine import Engine
from jaxgen.serving.errors import on_error
from jaxgen.serving.gate import Gate
from jaxgen.serving.gate import Keys
from jaxgen.serving.images_api import ImagesApi
from jaxgen.serving.images_api import check_model
from jaxgen.serving.inner import Inner
from jaxgen.serving.limits import Limits
from jaxgen.serving.metrics import Metrics


def make_app(engine: Engine, model: str, keys: Sequence[str] = (),
             page: asked.Server | None = None) -> Starlette:
  """The application around an engine that has been started.

  Args:
    engine: that draws.
    model: name of what is served, for ``/v1/models``.
    keys: that clients need; () = none.
    page: what the commands of the page at ``/`` say of the server; None = there is no page.
  """
  calls, metrics = Calls(engine, engine.limits), Metrics(engine)
  images, chat = ImagesApi(calls, model), ChatApi(calls, model)
  state = State(engine, model, metrics)
  routes = [Route(asked.DRAW, images.generations, methods=['POST']),
            Route(asked.EDIT, images.edits, methods=['POST']),
            Route(asked.CHAT, chat.completions, methods=['POST']),
            Route('/v1/models', state.models), Route('/v1/models/{name:path}', state.one_model),
            Route('/healthz', state.health), Route('/metrics', state.metrics)]
  inner = Inner()
  # The page is a client like others; whoever has signed in calls by its key.
  gate = Middleware(Gate, keys=Keys([*keys, inner.key] if keys else ()), limits=engine.limits,
                    metrics=metrics)
  inner.app = Starlette(routes=routes, middleware=[gate],
                        exception_handlers={HTTPException: on_error})
  inner.app.state.close = None
  if page:
    _add_page(inner, engine, model, Keys(keys), page)
  return inner.app


def _add_page(inner: Inner, engine: Engine, model: str, keys: Keys, page: asked.Server) -> None:
  """Adds the page behind the other routes; without its package, a line that says so."""
  routes = inner.app.router.routes
  try:
    from jaxgen.serving.pages import Pages
  except ModuleNotFoundError as error:
    routes.append(Route('/', _without_page(error)))
    return
  pages = Pages(engine, model, keys, inner, page)
  routes.append(pages)
  inner.app.router.lifespan_context = pages.lifespan
  inner.app.state.close = pages.close


def _without_page(error: ModuleNotFoundError) -> Callable[[Request], Awaitable[Response]]:
  async def answer(request: Request) -> Response:
    del request
    return PlainTextResponse(f'The API is at /v1; this page needs the package {error.name}: '
                             'pip install "jaxgen[demo]"\n', 501)

  return answer


class Listener(uvicorn.Server):
  """Answers calls of an application of ``make_app``.

  Args:
    app: the application.
    limits: of the server.
  """

  def __init__(self, app: Starlette, limits: Limits):
    super().__init__(uvicorn.Config(
        app, http=functools.partial(_Connection, seconds=limits.send), log_config=None,
        access_log=False, lifespan='on', server_header=False,
        timeout_graceful_shutdown=round(limits.drain)))
    self._close: Callable[[], Coroutine[Any, Any, None]] | None = app.state.close

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    """Finishes what is under way; browsers that have the page open are let go."""
    closing = asyncio.create_task(self._close()) if self._close else None
    await super().shutdown(sockets)
    if closing:
      closing.cancel()


class _Connection(AutoHTTPProtocol):
  """A connection that is dropped where its client does not take what is sent.

  uvicorn would keep the answer for as long as the client stays. The gate finds in the state of a
  call, as ``left``, whether its client is gone.

  Args:
    seconds: in which all that was written must be on its way.
  """

  def __init__(self, *args: Any, seconds: float, **options: Any):
    super().__init__(*args, **options)
    self._seconds, self._left = seconds, asyncio.Event()
    self._late: asyncio.TimerHandle | None = None
    self.app_state = self.app_state | dict(left=self._left)

  def connection_made(self, transport: asyncio.Transport) -> None:
    super().connection_made(transport)
    # Writing is paused, and what sends next waits, until the kernel has taken everything.
    transport.set_write_buffer_limits(0)

  def pause_writing(self) -> None:
    super().pause_writing()
    self._late = self.loop.call_later(self._seconds, self.transport.abort)

  def resume_writing(self) -> None:
    super().resume_writing()
    self._late.cancel()

  def connection_lost(self, exc: Exception | None) -> None:
    self._left.set()
    if self._late:
      self._late.cancel()
    super().connection_lost(exc)


class State:
  """Routes that say how the server is.

  Args:
    engine: that draws.
    model: name of what is served.
    metrics: of the server.
  """

  def __init__(self, engine: Engine, model: str, metrics: Metrics):
    self._engine, self._model, self._metrics = engine, model, metrics

  async def models(self, request: Request) -> Response:
    """``GET /v1/models``."""
    del request
    return JSONResponse(dict(object='list', data=[self._described()]))

  async def one_model(self, request: Request) -> Response:
    """``GET /v1/models/NAME``."""
    check_model(request.path_params['name'], self._model)
    return JSONResponse(self._described())

  async def health(self, request: Request) -> Response:
    """``GET /healthz``: 200 while requests are taken and drawn, else 503."""
    del request
    healthy = self._engine.healthy
    return JSONResponse(dict(status='ok' if healthy else 'stopping', queued=self._engine.queued,
                             under_way=self._engine.under_way), 200 if healthy else 503)

  async def metrics(self, request: Request) -> Response:
    """``GET /metrics``."""
    del request
    return Response(self._metrics.text(), media_type='text/plain; version=0.0.4')

  def _described(self) -> dict[str, object]:
    """The model, and what may be asked of it."""
    drawer = self._engine.drawer
    return dict(id=self._model, object='model', created=0, owned_by='jaxgen',
                system=drawer.run.config.system, outputs=drawer.outputs, images=drawer.images,
                sizes=[f'{width}x{height}' for height, width in drawer.sizes])
