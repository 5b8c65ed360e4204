"""The tab of dialogues: turns of texts and images, answered by texts and images."""

import base64
import io
import json
import pathlib
import random
import zipfile
from collections.abc import AsyncIterator
from collections.abc import Sequence
from typing import Any

import gradio as gr

from jaxgen.core.limits import MAX_SEED
from jaxgen.sampling.jobs import GIVEN
from jaxgen.serving.asked import CHAT
from jaxgen.serving.asked import shortened
from jaxgen.serving.demo import Page
from jaxgen.serving.demo import done
from jaxgen.serving.demo import number
from jaxgen.serving.demo import origin_of
from jaxgen.serving.demo import progress
from jaxgen.serving.demo import read
from jaxgen.serving.demo import request_views
from jaxgen.serving.demo import status
from jaxgen.serving.demo import stopped
from jaxgen.serving.demo import wrong
from jaxgen.serving.inner import Told

Messages = list[dict[str, Any]]  # of the API
HOUR = 3600.0
# Fields that are flags of ``jaxgen sample`` by the same names.
OPTIONS = ('images', 'seed', 'steps', 'guidance', 'image_guidance', 'temperature', 'max_tokens')


class Chat:
  """The tab.

  Args:
    page: that it is of.
  """

  def __init__(self, page: Page):
    self._page = page

  def tab(self) -> None:
    """Adds the components; within a ``gr.Tab``."""
    page = self._page
    messages = gr.State([], time_to_live=HOUR)
    with gr.Row():
      with gr.Column(scale=2):
        shown = gr.Chatbot(height=460, buttons=['copy'], label='Dialogue', elem_id='dialogue',
                           elem_classes=page.look, latex_delimiters=[], feedback_options=None)
        told = status('answering')
        words = gr.MultimodalTextbox(file_types=['image'], file_count='multiple', elem_id='turn',
                                     placeholder='Words, and images that are dropped here',
                                     show_label=False, sources=['upload'])
        with gr.Row():
          stop, clear = gr.Button('Stop'), gr.Button('A new dialogue', elem_id='clear')
      with gr.Column():
        fields = self._fields()
        request = request_views('said')
        file = gr.File(label='The request with its images', elem_id='request-file', height=90,
                       interactive=False)
    going = words.submit(self._answer, {words, messages, *fields.values()},
                         [told, shown, words, messages, fields['seed'], *request, file],
                         show_progress='hidden', api_visibility='private')
    stop.click(stopped, None, told, cancels=going, api_visibility='private')
    gr.on([clear.click, shown.clear], lambda: ([], [], ''), None, [messages, shown, told],
          cancels=going, api_visibility='private')
    self._names = {component: name for name, component in fields.items()}
    self._words, self._messages = words, messages

  def _fields(self) -> dict[str, gr.components.Component]:
    page = self._page
    found = dict(role=gr.Dropdown(list(GIVEN), value=GIVEN[0], label='Role of your images'),
                 images=number('Images of the answer; 0 = as the model likes', 0, precision=0),
                 size=page.size())
    found['seed'], found['fresh'] = page.seed()
    found |= page.sampling()
    with gr.Row():
      found['temperature'] = number('Temperature of texts', 0.0)
      found['max_tokens'] = number('Tokens of a text', page.limits.tokens, precision=0)
    return found

  async def _answer(self, values: dict[gr.components.Component, Any], request: gr.Request
                    ) -> AsyncIterator[tuple[Any, ...]]:
    """Answers a turn; yields values of the status, the dialogue, the words, the messages, the seed,
    the request and its file."""
    given = {name: values[component] for component, name in self._names.items()}
    if given.pop('fresh'):
      given['seed'] = random.randrange(MAX_SEED + 1)
    words, before = values[self._words], values[self._messages]
    messages = [*before, message_of(words['text'], words['files'], given.pop('role'))]
    body = dict(messages=messages, **{name: value for name, value in given.items()
                                      if value is not None})
    yield (progress({}, 1), self._shown(messages), None, gr.skip(), given['seed'],
           *self._views(body, origin_of(request)))
    parts: Messages = []
    try:
      async for event in self._page.call(CHAT, request,
                                         json=body | dict(stream=True, progress=True)):
        delta, step = event['choices'][0]['delta'], event.get('progress')
        found = [*([dict(type='text', text=delta['content'])] if delta.get('content') else []),
                 *delta.get('images', [])]
        parts += found
        yield (progress({0: (step['step'], step['steps'])} if step else {}, 1),
               self._shown([*messages, *answer_of(parts)]) if found else gr.skip(),
               *[gr.skip()] * 7)
    except Told as error:  # the turn may be mended and sent again
      yield wrong(error), self._shown(before), words, *[gr.skip()] * 6
      return
    yield (done(f'answered, seed {given["seed"]}'), gr.skip(), gr.skip(),
           [*messages, *answer_of(parts)], *[gr.skip()] * 5)

  def _views(self, body: dict[str, Any], origin: str) -> Sequence[Any]:
    """The request to read, its commands, and a file with the whole of it."""
    server = self._page.server
    options = [f'--{name.replace("_", "-")}={body[name]}' for name in OPTIONS if name in body]
    width, _, height = body['size'].partition('x')
    return [json.dumps(shortened(body), indent=2, ensure_ascii=False),
            server.curl(origin + CHAT, "-H 'Content-Type: application/json'", '-d @request.json'),
            server.sample('answer', '--dialogue=dialogue.json', *options,
                          *([f'--size={height}x{width}'] if height else [])),
            self._page.kept(zipped(body), 'request.zip')]

  def _shown(self, messages: Messages) -> Messages:
    """The dialogue as the component takes it, with images in files."""
    return [dict(role=message['role'], content=[
        piece['text'] if piece['type'] == 'text' else
        dict(path=self._page.kept(data_of(piece), 'image.png')) for piece in pieces_of(message)])
        for message in messages]


def message_of(text: str, files: Sequence[str], role: str) -> dict[str, Any]:
  """A turn of the user.

  Args:
    text: words.
    files: paths of images.
    role: of the images.
  """
  pieces = [dict(type='text', text=text)] if text else []
  for path in files:
    data = base64.b64encode(read(path)[1]).decode()
    kind = pathlib.Path(path).suffix.lower().removeprefix('.').replace('jpg', 'jpeg')
    pieces.append(dict(type='image_url', role=role,
                       image_url=dict(url=f'data:image/{kind};base64,{data}')))
  return dict(role='user', content=pieces)


def answer_of(parts: Messages) -> Messages:
  """The model's turn, if there is any of it."""
  return [dict(role='assistant', parts=list(parts))] if parts else []


def pieces_of(message: dict[str, Any]) -> Messages:
  """Texts and images of a turn."""
  return message.get('parts') or message['content']


def data_of(piece: dict[str, Any]) -> bytes:
  """The bytes of an image."""
  return base64.b64decode(piece['image_url']['url'].partition(',')[2])


def zipped(body: dict[str, Any]) -> bytes:
  """``request.json`` of the API, and ``dialogue.json`` of the command with its images."""
  buffer, parts = io.BytesIO(), []
  with zipfile.ZipFile(buffer, 'w') as file:
    for message in body['messages']:
      for piece in pieces_of(message):
        if piece['type'] == 'text':
          parts.append(dict(role=message['role'], text=piece['text']))
          continue
        name = f'image_{len(parts)}.png'
        file.writestr(name, data_of(piece))
        parts.append(dict(role=piece.get('role', 'target'), image=name))
    file.writestr('request.json', json.dumps(body))
    file.writestr('dialogue.json', json.dumps(dict(parts=parts), indent=2, ensure_ascii=False))
  return buffer.getvalue()
