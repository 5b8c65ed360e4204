"""``/v1/images/generations`` and ``/v1/images/edits``, as OpenAI's clients call them.

Fields beyond OpenAI's (``extra_body`` of its client): ``seed``, ``steps``, ``guidance``,
``image_guidance``, ``task``, ``outputs``, ``sizes``, ``roles``, ``timeout``.
"""

import asyncio
import base64
import contextlib
import dataclasses
import io
import json
import random
import time
from collections.abc import AsyncIterator
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import Response
from starlette.responses import StreamingResponse

from jaxgen.core.limits import MAX_SEED
from jaxgen.sampling import request as requests
from jaxgen.sampling.jobs import GIVEN
from jaxgen.sampling.request import make_request
from jaxgen.serving.calls import Calls
from jaxgen.serving.calls import behind
from jaxgen.serving.drawer import Drawer
from jaxgen.serving.drawing import Job
from jaxgen.serving.engine import Outputs
from jaxgen.serving.engine import Progress
from jaxgen.serving.errors import ApiError
from jaxgen.serving.errors import api_error
from jaxgen.serving.fields import Field
from jaxgen.serving.fields import asked_size
from jaxgen.serving.fields import read
from jaxgen.serving.fields import shared_fields
from jaxgen.serving.kinds import named_size
from jaxgen.serving.limits import Limits
from jaxgen.serving.uploads import checked_image

FORMATS = dict(png='PNG', jpeg='JPEG', webp='WEBP')


@dataclasses.dataclass(frozen=True)
class Wish:
  """What a call asks for.

  Attributes:
    prompt: text.
    images: (role, bytes of a file) of each given image.
    draws: how many times the request is drawn, each with noise of its own.
    outputs: images of one draw.
    sizes: (height, width) of each output; () = one that fits the images.
    seed, steps, guidance, image_guidance, task: as ``make_request`` and ``Drawer.prepare`` take
      them.
  """

  prompt: str = ''
  images: Sequence[tuple[str, bytes]] = ()
  draws: int = 1
  outputs: int = 1
  sizes: Sequence[tuple[int, int]] = ()
  seed: int = 0
  steps: int = 0
  guidance: float | None = None
  image_guidance: float | None = None
  task: str = 'auto'


def jobs_of(wish: Wish, drawer: Drawer) -> list[Job]:
  """The jobs of a wish, one for each draw; decodes its images.

  Raises:
    UserError: as ``Drawer.prepare`` and ``make_request``.
    DecodeError: an image cannot be read.
  """
  given = [(role, drawer.given(data)) for role, data in wish.images]
  by_role = {role: [image for own, image in given if own == role] for role in GIVEN}
  sizes = wish.sizes or [drawer.size_for(by_role['source'], [image for _, image in given])]
  request = make_request(
      drawer.run.config, wish.prompt, size=sizes[0], outputs=wish.outputs, seed=wish.seed,
      guidance=wish.guidance, image_guidance=wish.image_guidance, task=wish.task, name='request',
      **by_role)
  if len(set(sizes)) > 1:
    request = dataclasses.replace(request, sample=requests.as_request(request.sample, sizes))
  job = drawer.prepare(request, wish.steps)
  return [job.numbered(number) for number in range(wish.draws)]


class ImagesApi:
  """The two routes.

  Args:
    calls: takes jobs to the engine.
    model: name of what is served.
  """

  def __init__(self, calls: Calls, model: str):
    self._calls, self._model = calls, model
    self._limits, self._drawer = calls.limits, calls.engine.drawer

  async def generations(self, request: Request) -> Response:
    """``POST /v1/images/generations``: a JSON object."""
    body = await self._calls.json_body(request)
    return await self._answer(request, read(body, known_fields(self._limits)), [])

  async def edits(self, request: Request) -> Response:
    """``POST /v1/images/edits``: a form with one or several files ``image`` or ``image[]``."""
    form = await self._calls.form(request, self._drawer.images + 1)
    images, given = [], {}
    try:
      for name, value in form.multi_items():
        name = name.removesuffix('[]')
        if name == 'image' and isinstance(value, UploadFile):
          images.append(await value.read())
        elif isinstance(value, UploadFile):
          raise ApiError(400, f'{name}: files are sent as image; say in the prompt what to change',
                         param=name, code='unknown_parameter')
        elif name in ('sizes', 'roles'):
          given.setdefault(name, []).append(value)
        else:
          given[name] = value
    finally:
      await form.close()
    if not images:
      raise ApiError(400, 'image: missing; send one or several files', param='image',
                     code='missing')
    return await self._answer(request, read(given, known_fields(self._limits)), images)

  async def _answer(self, request: Request, fields: dict[str, Any], images: Sequence[bytes]
                    ) -> Response:
    wish = self._wish(fields, images)
    jobs = await self._calls.prepared(lambda: self._jobs(wish))
    if fields['stream']:
      events = self._calls.events(request, jobs, fields['timeout'])
      # What is refused at once has a status of its own.
      events = behind(await anext(events), events)
      return StreamingResponse(self._stream(request, events, wish, fields, bool(images)),
                               media_type='text/event-stream')
    outputs = await self._calls.drawn(request, jobs, fields['timeout'])
    data = await asyncio.to_thread(_encoded, outputs, fields['output_format'])
    request.state.told = dict(images=len(data))
    return JSONResponse(dict(created=int(time.time()), data=data, seed=wish.seed,
                             output_format=fields['output_format']))

  def _jobs(self, wish: Wish) -> list[Job]:
    """The jobs of a wish whose images nobody has looked at yet."""
    for index, (_, image) in enumerate(wish.images):
      checked_image(image, self._limits, f'image[{index}]')
    return jobs_of(wish, self._drawer)

  async def _stream(self, request: Request, events: AsyncIterator[Progress | list[Outputs]],
                    wish: Wish, fields: dict[str, Any], edit: bool) -> AsyncIterator[str]:
    """Events of OpenAI's schema, and ``progress`` with the steps that are done."""
    name = 'image_edit' if edit else 'image_generation'
    try:
      async with contextlib.aclosing(events):
        async for event in events:
          if isinstance(event, Progress):
            yield sse(dict(type=f'{name}.progress', draw=event.job, step=event.step,
                           steps=event.steps))
            continue
          data = await asyncio.to_thread(_encoded, event, fields['output_format'])
          request.state.told = dict(images=len(data))
          for index, image in enumerate(data):
            yield sse(dict(type=f'{name}.completed', created_at=int(time.time()), index=index,
                           output_format=fields['output_format'], seed=wish.seed, **image))
    except Exception as error:  # the status has been sent
      yield sse(dict(type='error', **api_error(error).body))

  def _wish(self, fields: dict[str, Any], images: Sequence[bytes]) -> Wish:
    """The wish of a call; raises an ``ApiError`` for fields that do not go together."""
    limits, outputs = self._limits, fields['outputs']
    if outputs > self._drawer.outputs:
      raise ApiError(400, f'outputs = {outputs}: one request of this model may have '
                     f'{self._drawer.outputs}', param='outputs', code='invalid_value')
    if len(images) > self._drawer.images:
      raise ApiError(400, f'image: {len(images)} images; one request of this model may have '
                     f'{self._drawer.images}', param='image', code='too_many_images')
    if len(fields['prompt'] or '') > limits.prompt:
      raise ApiError(400, f'prompt: {len(fields["prompt"])} characters; it may have '
                     f'{limits.prompt}', param='prompt', code='prompt_too_long')
    check_model(fields['model'], self._model)
    seed = random.randrange(MAX_SEED + 1) if fields['seed'] is None else fields['seed']
    return Wish(fields['prompt'] or '', list(zip(_roles(fields['roles'], len(images)), images)),
                fields['n'], outputs, _sizes(fields, outputs), seed, fields['steps'],
                fields['guidance'], fields['image_guidance'], fields['task'])


def known_fields(limits: Limits) -> dict[str, Field]:
  """The fields of both routes."""
  return dict(
      prompt=Field(str), n=Field(int, 1, limits.draws, default=1),
      response_format=Field(str, choices=('b64_json',), default='b64_json'),
      output_format=Field(str, choices=tuple(FORMATS), default='png'),
      background=Field(str, choices=('auto', 'opaque')),
      task=Field(str, choices=('auto', *requests.TASKS), default='auto'),
      outputs=Field(int, 1, limits.outputs, default=1), sizes=Field(list), roles=Field(list),
      **shared_fields(limits))


def check_model(asked: str | None, served: str) -> None:
  """Refuses the name of another model; none is as good as the right one."""
  if asked not in (None, '', served):
    raise ApiError(404, f'model = {asked[:80]!r}: this server has {served!r}', param='model',
                   code='model_not_found')


def sse(event: object) -> str:
  """An event as a line of a stream."""
  return f'data: {json.dumps(event)}\n\n'


def _base64(image: np.ndarray, kind: str) -> str:
  """uint8[H, W, 3] as the base64 of a file of one of ``FORMATS``."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, FORMATS[kind], **({} if kind == 'png' else {'quality': 95}))
  return base64.b64encode(buffer.getvalue()).decode()


def _encoded(outputs: Sequence[Outputs], kind: str) -> list[dict[str, Any]]:
  return [dict(b64_json=_base64(image, kind), size=f'{image.shape[1]}x{image.shape[0]}',
               draw=draw, output=output)
          for draw, images in enumerate(outputs) for output, image in enumerate(images)]


def _roles(given: list[str] | None, count: int) -> list[str]:
  """The role of each image: the first one is edited, the others are referred to."""
  roles = given or (['source'] + ['reference'] * count)[:count]
  if len(roles) != count:
    raise ApiError(400, f'roles: {len(roles)} of them for {count} images; give one for each',
                   param='roles', code='invalid_value')
  if not set(roles) <= set(GIVEN):
    raise ApiError(400, f'roles: use {", ".join(GIVEN)}', param='roles', code='invalid_value')
  return roles


def _sizes(fields: dict[str, Any], outputs: int) -> list[tuple[int, int]]:
  """(height, width) of each output; [] where the server chooses."""
  if fields['sizes']:
    if len(fields['sizes']) != outputs:
      raise ApiError(400, f'sizes: {len(fields["sizes"])} of them for {outputs} outputs; give one '
                     'for each', param='sizes', code='invalid_value')
    return [named_size(size[:20], 'sizes') for size in fields['sizes']]
  size = asked_size(fields)
  return [size] * outputs if size else []
