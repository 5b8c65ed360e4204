"""A client of the server within its own process: what the page asks for passes the gate and the API
as anybody's call does."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.types import ASGIApp
from starlette.types import Message
from starlette.types import Scope


class Told(Exception):
  """What the API says in place of an answer, one line."""


class Inner:
  """Calls an application that is set once it is made.

  Attributes:
    app: that is called.
    key: of this client, made at random; the gate must know it.
    active: calls under way.
  """

  def __init__(self):
    self.app: ASGIApp | None = None
    self.key, self.active = secrets.token_hex(32), 0

  async def events(self, route: str, client: tuple[str, int], **body: Any
                   ) -> AsyncIterator[dict[str, Any]]:
    """The events of a call that is streamed; closing them is leaving.

    Args:
      route: path of a route that answers POST.
      client: (address, port) of whoever asks, for the log.
      **body: ``json``, or ``data`` and ``files``, as ``httpx`` takes them.

    Raises:
      Told: the call is refused, or fails on the way.
    """
    request = httpx.Request('POST', f'http://page{route}', **body,
                            headers=dict(authorization=f'Bearer {self.key}'))
    left, messages = asyncio.Event(), asyncio.Queue()
    task = asyncio.create_task(self.app(
        _scope(request, route, client, left), _Sender(request.read(), left), messages.put))
    task.add_done_callback(messages.put_nowait)
    self.active += 1
    try:
      async for event in _read(messages, task):
        if 'error' in event:
          raise Told(event['error']['message'])
        yield event
    finally:
      self.active -= 1
      left.set()
      with contextlib.suppress(Exception):  # the gate has reported it
        await task


class _Sender:
  """``receive`` of a call that is sent at once, and of a client that leaves."""

  def __init__(self, content: bytes, left: asyncio.Event):
    self._content: bytes | None = content
    self._left = left

  async def __call__(self) -> Message:
    content, self._content = self._content, None
    if content is not None:
      return dict(type='http.request', body=content, more_body=False)
    await self._left.wait()
    return dict(type='http.disconnect')


def _scope(request: httpx.Request, route: str, client: tuple[str, int], left: asyncio.Event
           ) -> Scope:
  return dict(
      type='http', asgi=dict(version='3.0', spec_version='2.3'), http_version='1.1',
      method='POST', scheme='http', path=route, raw_path=route.encode(), root_path='',
      query_string=b'', headers=[(name.lower(), value) for name, value in request.headers.raw],
      client=client, server=None, state=dict(left=left))


async def _read(messages: asyncio.Queue, end: asyncio.Task) -> AsyncIterator[dict[str, Any]]:
  """The objects of an answer: one that is a whole body, or those of a stream of events."""
  streamed, text = False, b''
  while (message := await messages.get()) is not end:
    if message['type'] == 'http.response.start':
      streamed = dict(message['headers']).get(b'content-type', b'').startswith(b'text/event-stream')
      continue
    *lines, text = (text + message.get('body', b'')).split(b'\n\n') if streamed else (
        [text + message.get('body', b'')])
    for line in lines:
      data = line.removeprefix(b'data: ')
      if data != b'[DONE]':
        yield json.loads(data)
  if text:
    yield json.loads(text)
