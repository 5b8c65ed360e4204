"""What every call goes through: its key, the bytes of its body, a line of the log and the metrics.

The log says who asked for what kind of thing and how it ended, and never what for.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp
from starlette.types import Message
from starlette.types import Receive
from starlette.types import Scope
from starlette.types import Send

from jaxgen.serving.errors import ApiError
from jaxgen.serving.errors import api_error
from jaxgen.serving.limits import Limits
from jaxgen.serving.metrics import Metrics

LEFT = 499  # the client left, or was dropped, before it had its answer
_log = logging.getLogger('jaxgen.serving.access')


class Keys:
  """The keys of a server, compared in a time that does not depend on what is sent.

  Args:
    keys: any of them opens the server; () = it needs none.
  """

  def __init__(self, keys: Sequence[str]):
    self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

  @property
  def needed(self) -> bool:
    """Whether there are any."""
    return bool(self._digests)

  def open(self, authorization: str) -> bool:
    """Whether a header ``Bearer KEY`` holds one of them."""
    if not self._digests:
      return True
    kind, _, key = authorization.partition(' ')
    given = hashlib.sha256(key.strip().encode()).digest()
    found = False
    for digest in self._digests:  # all of them, whichever it is
      found |= hmac.compare_digest(digest, given)
    return found and kind.lower() == 'bearer'


class Gate:
  """ASGI middleware around the application.

  Args:
    app: that answers.
    keys: of the server; routes below /v1 and /metrics need one.
    limits: of the server.
    metrics: that count calls.
  """

  def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, metrics: Metrics):
    self._app, self._keys, self._metrics = app, keys, metrics
    self._body, self._upload = limits.body, limits.upload

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    began, status, done = time.monotonic(), 0, False
    left: asyncio.Event = scope['state']['left']
    name = uuid.uuid4().hex[:12]
    limited = _Limited(receive, self._body)

    async def answer(message: Message) -> None:
      nonlocal status, done
      if message['type'] == 'http.response.start':
        status = message['status']
        message['headers'] = [*message['headers'], (b'x-request-id', name.encode())]
      last = message['type'] == 'http.response.body' and not message.get('more_body')
      if last and message.get('body'):
        # A call ends when its client has taken the answer: the empty end waits for the rest.
        await send(message | dict(more_body=True))
        message = message | dict(body=b'')
      await send(message)
      done = last and not left.is_set()

    try:
      refusal = self._refusal(scope)
      if refusal:
        if refusal.status == 413:
          await limited.discard(self._upload)
        await refusal.response(scope, limited, answer)
        return
      await self._app(scope, limited, answer)
    except Exception as error:
      told = api_error(error)
      if told.status == 413:
        await limited.discard(self._upload)
      if status:
        status, done = told.status, True
      else:
        await told.response(scope, limited, answer)
    finally:
      self._report(scope, name, status if done else LEFT, time.monotonic() - began, limited.size)

  def _refusal(self, scope: Scope) -> ApiError | None:
    headers = {key.lower(): value for key, value in scope['headers']}
    path = scope['path']
    if path.startswith(('/v1', '/metrics')) and not self._keys.open(
        headers.get(b'authorization', b'').decode('latin-1')):
      return ApiError(401, 'Authorization: no key of this server; send Authorization: Bearer KEY',
                      code='invalid_api_key', headers={'WWW-Authenticate': 'Bearer'})
    origin = headers.get(b'origin', b'').partition(b'://')
    if any(origin) and origin[2] != headers.get(b'host'):
      # Any page that is open in a browser of this machine could draw otherwise.
      return ApiError(403, 'Origin: calls of other web pages are refused', code='cross_origin')
    length = headers.get(b'content-length', b'0')
    if length.isdigit() and int(length) > self._body:
      return too_large(self._body)
    return None

  def _report(self, scope: Scope, name: str, status: int, seconds: float, size: int) -> None:
    route = getattr(scope.get('route'), 'path', 'other')
    self._metrics.call(route, status, seconds)
    if scope.get('state', {}).get('quiet') and status < 400:  # parts of the page
      return
    line: dict[str, Any] = dict(
        id=name, client=(scope.get('client') or ['?'])[0], method=scope['method'], route=route,
        status=status, seconds=round(seconds, 3), bytes=size)
    line |= scope.get('state', {}).get('told', {})
    _log.info(json.dumps(line))


class _Limited:
  """``receive`` of a body that may have so many bytes."""

  def __init__(self, receive: Receive, most: int):
    self._receive, self._most, self.size, self._more = receive, most, 0, True

  async def __call__(self) -> Message:
    message = await self._next()
    if self.size > self._most:
      raise too_large(self._most)
    return message

  async def discard(self, seconds: float) -> None:
    """Reads the rest, since a client waits for its answer until all is sent; not without end."""
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(seconds):
        while self._more and self.size < 3 * self._most:
          await self._next()

  async def _next(self) -> Message:
    message = await self._receive()
    self.size += len(message.get('body', b''))
    self._more = message['type'] == 'http.request' and message.get('more_body', False)
    return message


def too_large(most: int) -> ApiError:
  """The refusal of a body."""
  return ApiError(413, f'body: too large; a call may have {most} bytes', code='body_too_large')
