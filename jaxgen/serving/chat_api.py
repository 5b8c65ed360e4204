"""``/v1/chat/completions``: texts and images in turn, whole or streamed.

A model that writes answers with both; one that only draws answers the last message with an image.
Images of an answer stand in ``message.images``, or ``delta.images`` of a stream, as data URLs, and
``message.parts`` has texts and images in their order. Fields beyond OpenAI's: ``images`` (exactly
so many), ``max_images``, ``size``, ``steps``, ``guidance``, ``image_guidance``, ``timeout``,
``progress`` (of a stream: steps of its images, too), and ``role`` of an image.
"""

import asyncio
import contextlib
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import Response
from starlette.responses import StreamingResponse

from jaxgen.core.limits import MAX_SEED
from jaxgen.core.limits import MAX_TEMPERATURE
from jaxgen.core.texts import checked
from jaxgen.data.sample import Part
from jaxgen.sampling.interleaved import Options
from jaxgen.serving.calls import Calls
from jaxgen.serving.calls import behind
from jaxgen.serving.calls import waited
from jaxgen.serving.conversation import Conversation
from jaxgen.serving.engine import Progress
from jaxgen.serving.errors import ApiError
from jaxgen.serving.errors import api_error
from jaxgen.serving.fields import Field
from jaxgen.serving.fields import asked_size
from jaxgen.serving.fields import read
from jaxgen.serving.fields import shared_fields
from jaxgen.serving.images_api import Wish
from jaxgen.serving.images_api import check_model
from jaxgen.serving.images_api import jobs_of
from jaxgen.serving.images_api import sse
from jaxgen.serving.limits import Limits
from jaxgen.serving.messages import message_of
from jaxgen.serving.messages import parts_of
from jaxgen.serving.messages import piece_of
from jaxgen.serving.messages import sample_of

# Why a dialogue ended -> OpenAI's reason; others mean that there is no more room.
REASONS = dict(end='stop', image='stop')
# Parts of an answer, steps of its images, and at last why it ended.
Pieces = AsyncIterator[dict[str, Any] | Progress | str]


class ChatApi:
  """The route.

  Args:
    calls: takes jobs to the engine.
    model: name of what is served.
  """

  def __init__(self, calls: Calls, model: str):
    self._calls, self._model = calls, model
    self._engine, self._limits = calls.engine, calls.limits

  async def completions(self, request: Request) -> Response:
    """``POST /v1/chat/completions``."""
    body = await self._calls.json_body(request)
    messages = body.pop('messages', None)
    fields = read(body, known_fields(self._limits))
    check_model(fields['model'], self._model)
    fields['progress'] &= fields['stream']
    if fields['seed'] is None:
      fields['seed'] = random.randrange(MAX_SEED + 1)
    answer = self._written if self._engine.drawer.reads else self._drawn
    pieces = answer(request, messages, fields)
    # What is refused at once has a status of its own, in a stream too.
    first = await anext(pieces)
    if fields['stream']:
      return StreamingResponse(self._chunks(request, first, pieces),
                               media_type='text/event-stream')
    return await self._whole(request, first, pieces)

  async def _written(self, request: Request, messages: object, fields: dict[str, Any]) -> Pieces:
    """The pieces of an answer as they come, and why it ended."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    def put(event: object) -> None:
      with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(queue.put_nowait, event)

    conversation = await self._calls.prepared(lambda: self._conversation(
        self._parts(messages), fields, put if fields['progress'] else None))

    def pump() -> None:
      images = 0
      try:
        for event in conversation.events():
          if event.part is None:
            put(REASONS.get(event.dialogue.ended, 'length'))
          else:
            put(piece_of(event.part, images))
            images += event.part.is_image
      except BaseException as error:  # told to whoever waits
        put(error)

    threading.Thread(target=pump, name='dialogue', daemon=True).start()
    try:
      async with contextlib.aclosing(waited(request, queue, fields['timeout'])) as found:
        async for event in found:
          if isinstance(event, BaseException):
            raise event
          yield event
          if isinstance(event, str):
            return
    except Exception as error:
      raise api_error(error) from error
    finally:
      conversation.stop()

  def _conversation(self, parts: Sequence[Part], fields: dict[str, Any],
                    listen: Callable[[Progress], None] | None) -> Conversation:
    tokens = fields['max_completion_tokens'] or fields['max_tokens'] or self._limits.tokens
    for part in parts:
      checked(part.text or '', 'messages')
    return Conversation(
        self._engine, sample_of(parts, self._engine.drawer),
        Options(images=fields['images'], max_images=fields['max_images'], max_tokens=tokens,
                temperature=fields['temperature'], top_p=fields['top_p'],
                guidance=fields['guidance'], image_guidance=fields['image_guidance'],
                steps=fields['steps']),
        seed=fields['seed'], size=asked_size(fields), seconds=fields['timeout'], listen=listen)

  async def _drawn(self, request: Request, messages: object, fields: dict[str, Any]) -> Pieces:
    """The image that the last message asks for, by a model that writes nothing."""
    jobs = await self._calls.prepared(lambda: jobs_of(
        self._wish(self._parts(messages), fields), self._engine.drawer))
    for index, image in enumerate((await self._calls.drawn(request, jobs, fields['timeout']))[0]):
      yield piece_of(Part('target', image=image), index)
    yield 'stop'

  def _parts(self, messages: object) -> list[Part]:
    """The parts of a call; not on the event loop, since they may hold megabytes of base64."""
    return parts_of(messages, self._limits, self._engine.drawer.images)

  def _wish(self, parts: Sequence[Part], fields: dict[str, Any]) -> Wish:
    """What the last message asks of a model that writes nothing."""
    last = next((index for index in range(len(parts), 0, -1)
                 if parts[index - 1].role in ('system', 'assistant', 'target')), 0)
    asked, size = parts[last:], asked_size(fields)
    if not asked:
      raise ApiError(400, "messages: end them with the user's", param='messages',
                     code='invalid_value')
    return Wish('\n'.join(part.text for part in asked if not part.is_image),
                [(part.role, part.image) for part in asked if part.is_image],
                sizes=[size] if size else (), seed=fields['seed'], steps=fields['steps'],
                guidance=fields['guidance'], image_guidance=fields['image_guidance'])

  async def _whole(self, request: Request, first: dict[str, Any] | str, pieces: Pieces
                   ) -> Response:
    """One completion of all pieces."""
    found = [first] + [piece async for piece in pieces]
    message = message_of(found[:-1])
    request.state.told = dict(images=len(message['images']))
    return JSONResponse(self._head('chat.completion') | dict(choices=[dict(
        index=0, message=message, finish_reason=found[-1], logprobs=None)]))

  async def _chunks(self, request: Request, first: dict[str, Any] | Progress | str, pieces: Pieces
                    ) -> AsyncIterator[str]:
    """Chunks of OpenAI's schema, one for each piece."""
    head, images = self._head('chat.completion.chunk'), 0

    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
      return sse(head | more | dict(choices=[dict(index=0, delta=delta, finish_reason=reason)]))

    try:
      yield chunk(dict(role='assistant', content=''))
      async with contextlib.aclosing(behind(first, pieces)) as found:
        async for piece in found:
          if isinstance(piece, str):
            yield chunk({}, piece)
          elif isinstance(piece, Progress):
            yield chunk({}, progress=dict(step=piece.step, steps=piece.steps))
          elif piece['type'] == 'text':
            yield chunk(dict(content=piece['text']))
          else:
            images += 1
            request.state.told = dict(images=images)
            yield chunk(dict(images=[piece]))
      yield 'data: [DONE]\n\n'
    except Exception as error:  # the status has been sent
      yield sse(api_error(error).body)

  def _head(self, kind: str) -> dict[str, Any]:
    return dict(id=f'chatcmpl-{uuid.uuid4().hex[:24]}', object=kind, created=int(time.time()),
                model=self._model)


def known_fields(limits: Limits) -> dict[str, Field]:
  """The fields of the route, its messages apart."""
  most = limits.images + limits.outputs
  return dict(
      n=Field(int, 1, 1), temperature=Field(float, 0, MAX_TEMPERATURE, default=0.0),
      top_p=Field(float, 0.001, 1, default=1.0), max_tokens=Field(int, 1, limits.tokens),
      max_completion_tokens=Field(int, 1, limits.tokens),
      images=Field(int, 0, most, default=0), max_images=Field(int, 0, most, default=most),
      progress=Field(bool, default=False), modalities=Field(list), **shared_fields(limits))
