"""The ASGI application: routes of OpenAI's API around one engine."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route

from jaxgen.serving.calls import Calls
from jaxgen.serving.chat_api import ChatApi
from jaxgen.serving.engine import Engine
from jaxgen.serving.errors import on_error
from jaxgen.serving.gate import Gate
from jaxgen.serving.gate import Keys
from jaxgen.serving.images_api import ImagesApi
from jaxgen.serving.images_api import check_model
from jaxgen.serving.metrics import Metrics


def make_app(engine: Engine, model: str, keys: Sequence[str] = (),
             routes: Sequence[BaseRoute] = ()) -> Starlette:
  """The application around an engine that has been started.

  Args:
    engine: that draws.
    model: name of what is served, for ``/v1/models``.
    keys: that clients need; () = none.
    routes: further ones.
  """
  calls, metrics = Calls(engine, engine.limits), Metrics(engine)
  images, chat = ImagesApi(calls, model), ChatApi(calls, model)
  state = State(engine, model, metrics)
  return Starlette(
      routes=[Route('/v1/images/generations', images.generations, methods=['POST']),
              Route('/v1/images/edits', images.edits, methods=['POST']),
              Route('/v1/chat/completions', chat.completions, methods=['POST']),
              Route('/v1/models', state.models), Route('/v1/models/{name:path}', state.one_model),
              Route('/healthz', state.health), Route('/metrics', state.metrics), *routes],
      middleware=[Middleware(Gate, keys=Keys(keys), body=engine.limits.body, metrics=metrics)],
      exception_handlers={HTTPException: on_error})


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
