"""A call on its way: its body, the jobs that it asks for, and whether its client is still there."""

import asyncio
import contextlib
import json
import json.scanner
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

from starlette.datastructures import FormData
from starlette.requests import Request

from jaxgen.serving.drawing import Job
from jaxgen.serving.engine import Engine
from jaxgen.serving.engine import Outputs
from jaxgen.serving.engine import Progress
from jaxgen.serving.engine import Refused
from jaxgen.serving.errors import ApiError
from jaxgen.serving.errors import api_error
from jaxgen.serving.limits import Limits

Item = TypeVar('Item')
PREPARED_AT_ONCE = 4  # calls whose bodies are parsed, or images decoded, at one time
SMALL = 2**16  # bytes of JSON that are parsed at once
VALUES = 2**16  # commas and brackets of JSON; in memory each may take a hundred times its bytes


class Calls:
  """Takes the jobs of calls to the engine and back.

  Args:
    engine: that draws.
    limits: of the server.
  """

  def __init__(self, engine: Engine, limits: Limits):
    self.engine, self.limits = engine, limits
    self._preparing, self._unprepared = asyncio.Semaphore(PREPARED_AT_ONCE), 0

  async def json_body(self, request: Request) -> dict[str, Any]:
    """The object that a call holds; raises an ``ApiError`` where it holds none."""
    async with asyncio.timeout(self.limits.upload):
      body = await request.body()
    if len(body) <= SMALL:
      return _object_of(body)
    return await self.prepared(lambda: _object_of(body, _ByValue))

  async def form(self, request: Request, files: int) -> FormData:
    """The form that a call holds, with so many files at the most."""
    if not request.headers.get('content-type', '').startswith('multipart/form-data'):
      raise ApiError(415, 'body: send a form, multipart/form-data', code='unsupported_media_type')
    async with asyncio.timeout(self.limits.upload):
      return await request.form(max_files=files, max_fields=64,
                                max_part_size=4 * self.limits.prompt)

  async def prepared(self, make: Callable[[], Item]) -> Item:
    """Runs what reads large bodies, decodes images or makes examples on another thread, few at one
    time.

    Raises:
      Refused: as many calls wait for it as may wait to be drawn; each holds its images.
    """
    if self._unprepared >= self.limits.queue:
      raise Refused(f'{self._unprepared} calls are being read, and no more may; come again later',
                    10)
    self._unprepared += 1
    try:
      async with self._preparing:
        return await asyncio.to_thread(make)
    finally:
      self._unprepared -= 1

  async def drawn(self, request: Request, jobs: Sequence[Job], seconds: float) -> list[Outputs]:
    """The outputs of all jobs; if the client leaves before, they are taken away."""
    results: list[Outputs] = []
    async with contextlib.aclosing(self.events(request, jobs, seconds)) as events:
      async for event in events:
        if not isinstance(event, Progress):
          results = event
    return results

  async def events(self, request: Request, jobs: Sequence[Job], seconds: float
                   ) -> AsyncIterator[Progress | list[Outputs]]:
    """The steps of all jobs as they are done, and at last their outputs.

    Raises:
      ApiError: what the client is told; also where the client has left, which nobody reads.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    def put(event: object) -> None:
      loop.call_soon_threadsafe(queue.put_nowait, event)

    tickets = self.engine.submit(jobs, seconds=seconds, listen=put)
    ends = asyncio.gather(*(asyncio.wrap_future(ticket.future) for ticket in tickets))
    ends.add_done_callback(queue.put_nowait)
    ends.add_done_callback(_heard)
    try:
      async with contextlib.aclosing(waited(request, queue, seconds)) as found:
        async for event in found:
          if event is ends:
            yield await ends
            return
          yield event
    except Exception as error:
      raise api_error(error) from error
    finally:
      ends.cancel()
      for ticket in tickets:
        ticket.future.cancel()


def _heard(future: asyncio.Future) -> None:
  """Takes note of an error: where the client has left, nobody else does, and asyncio would log it.
  """
  if not future.cancelled():
    future.exception()


class _ByValue(json.JSONDecoder):
  """Lets other threads run between values: the scanner in C holds them all up to its end."""

  def __init__(self):
    super().__init__()
    self.scan_once = json.scanner.py_make_scanner(self)


def _object_of(body: bytes, decoder: type[json.JSONDecoder] = json.JSONDecoder) -> dict[str, Any]:
  """The object of a body; raises an ``ApiError`` where it holds none."""
  if len(body) > SMALL and sum(map(body.count, (b',', b'[', b'{'))) > VALUES:
    raise ApiError(400, f'body: more than {VALUES} values; send fewer', code='invalid_json')
  try:
    found = json.loads(body, cls=decoder)
  except (ValueError, RecursionError):
    raise ApiError(400, 'body: is not JSON', code='invalid_json') from None
  if not isinstance(found, dict):
    raise ApiError(400, 'body: must be a JSON object', code='invalid_json')
  return found


async def behind(first: Item, rest: AsyncIterator[Item]) -> AsyncIterator[Item]:
  """The first one, which was waited for to see whether there is any, and the others."""
  async with contextlib.aclosing(rest) as others:
    yield first
    async for item in others:
      yield item


async def waited(request: Request, queue: asyncio.Queue, seconds: float) -> AsyncIterator[Any]:
  """What is put into a queue, as it comes, without end.

  Raises:
    ApiError: the client has left.
    TimeoutError: so many seconds are over.
  """
  loop = asyncio.get_running_loop()
  deadline = loop.time() + seconds
  left = asyncio.create_task(gone(request))
  left.add_done_callback(queue.put_nowait)
  try:
    while True:
      event = await asyncio.wait_for(queue.get(), deadline - loop.time())
      if event is left:
        raise ApiError(499, 'client: has left', code='left')
      yield event
  finally:
    left.cancel()


async def gone(request: Request) -> None:
  """Waits until the client has left; its body has been read."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass
