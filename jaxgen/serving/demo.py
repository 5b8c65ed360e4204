"""The web page of a server: what is asked there goes to the server's own API, see ``inner``."""

import base64
import hashlib
import html
import os
import pathlib
import random
from collections.abc import AsyncIterator
from collections.abc import Sequence
from typing import Any

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read while it is imported
import gradio as gr

from jaxgen.core.limits import MAX_SEED
from jaxgen.data.decode import decode
from jaxgen.sampling.jobs import GIVEN
from jaxgen.serving.asked import Asked
from jaxgen.serving.asked import Given
from jaxgen.serving.asked import Server
from jaxgen.serving.engine import Engine
from jaxgen.serving.inner import Inner
from jaxgen.serving.inner import Told

AUTO = 'auto'
LABELS = dict(source='Images to edit (source)', reference='References', context='Context')
SMALL = 128  # pixels; images of that side are shown with their pixels
CSS = """
.status progress {width: 100%; height: 0.6rem}
.small img {image-rendering: pixelated; min-width: 6rem; object-fit: contain !important}
#dialogue [aria-label=Share] {display: none}  /* would send to another server */
.status .wrong {color: var(--error-text-color); font-weight: 600}
"""


class Page:
  """The tab that draws, and parts that other tabs share.

  Args:
    engine: that draws; only its limits are read here.
    inner: calls the API.
    server: for commands of a shell.
    folder: of files that are shown.
  """

  def __init__(self, engine: Engine, inner: Inner, server: Server, folder: str):
    self.drawer, self.limits, self._inner = engine.drawer, engine.limits, inner
    self.server, self._folder = server, pathlib.Path(folder)
    self.look = ['small'] if max(map(max, self.drawer.sizes)) <= SMALL else []

  def draw_tab(self) -> None:
    """Adds the components; within a ``gr.Tab``."""
    with gr.Row():
      with gr.Column():
        prompt = gr.Textbox(label='Prompt', lines=2, elem_id='prompt')
        with gr.Row():
          draw = gr.Button('Draw', variant='primary', elem_id='draw')
          stop = gr.Button('Stop', elem_id='stop')
        fields = dict(prompt=prompt) | self._fields()
      with gr.Column():
        told = status('drawing')
        gallery = gr.Gallery(label='Images', format='png', columns=2, object_fit='contain',
                             fit_columns=False, interactive=False, elem_id='drawn',
                             elem_classes=self.look, buttons=['download', 'fullscreen'])
        request = request_views('asked')
    going = gr.on([draw.click, prompt.submit], self._draw, set(fields.values()),
                  [told, gallery, fields['seed'], *request], show_progress='hidden',
                  api_visibility='private')
    stop.click(stopped, None, told, cancels=going, api_visibility='private')
    self._names = {component: name for name, component in fields.items()}

  async def call(self, route: str, request: gr.Request, **body: Any
                 ) -> AsyncIterator[dict[str, Any]]:
    """The events of a call of the API, in the name of whoever has opened the page."""
    client = request.request.client
    async for event in self._inner.events(route, (client.host, client.port), **body):
      yield event

  def kept(self, data: bytes, name: str) -> str:
    """Path of a file that the page may show, in a folder named by what is in it."""
    file = self._folder / hashlib.sha256(data).hexdigest() / name
    if not file.exists():
      file.parent.mkdir(exist_ok=True)
      file.write_bytes(data)
    return str(file)

  def sampling(self) -> dict[str, gr.Number]:
    """Name -> component of steps and scales, with the defaults of the server."""
    defaults = self.drawer.run.config.sampling
    with gr.Row():
      found = dict(steps=number('Steps', defaults.steps, precision=0),
                   guidance=number('Guidance', defaults.guidance))
      if self.drawer.images:
        found['image_guidance'] = number('Image guidance', defaults.image_guidance)
    return found

  def size(self) -> gr.Dropdown:
    """Of outputs."""
    sizes = [f'{width}x{height}' for height, width in self.drawer.sizes]
    return gr.Dropdown([AUTO, *sizes], value=sizes[0] if len(sizes) == 1 else AUTO,
                       label='Size (width x height)')

  def seed(self) -> tuple[gr.Number, gr.Checkbox]:
    """The seed, and whether another one is taken each time."""
    with gr.Row():
      return (number('Seed', 0, precision=0, elem_id='seed'),
              gr.Checkbox(True, label='A new seed each time', elem_id='fresh'))

  def _fields(self) -> dict[str, gr.components.Component]:
    """Name -> component of all that is asked beside the prompt."""
    drawer, found = self.drawer, {}
    if drawer.images:
      with gr.Row():
        for role in GIVEN:
          found[role] = gr.Gallery(label=LABELS[role], file_types=['image'], interactive=True,
                                   height=180, min_width=90, columns=2, elem_id=role,
                                   sources=['upload', 'clipboard'], buttons=[])
    with gr.Row():
      found['n'] = gr.Slider(1, self.limits.draws, 1, step=1, label='Images of their own noise (n)')
      if drawer.outputs > 1:
        found['outputs'] = gr.Slider(1, drawer.outputs, 1, step=1,
                                     label='Images that belong together (outputs)')
    found['size'] = self.size()
    if drawer.outputs > 1 and len(drawer.sizes) > 1:
      found['sizes'] = gr.Textbox(label='A size for each output, instead', elem_id='sizes',
                                  placeholder='768x512, 512x768')
    found['seed'], found['fresh'] = self.seed()
    return found | self.sampling()

  async def _draw(self, values: dict[gr.components.Component, Any], request: gr.Request
                  ) -> AsyncIterator[tuple[Any, ...]]:
    """Draws; yields values of the status, the gallery, the seed and the request."""
    given = {name: values[component] for component, name in self._names.items()}
    if given.pop('fresh'):
      given['seed'] = random.randrange(MAX_SEED + 1)
    asked, origin = asked_of(given), origin_of(request)
    views = (asked.json(), asked.curl(self.server, origin), asked.sample(self.server))
    yield progress({}, given['n']), [], given['seed'], *views
    steps: dict[int, tuple[int, int]] = {}
    drawn = []
    try:
      async for event in self.call(asked.route, request, **asked.body(stream=True)):
        if event['type'].endswith('.progress'):
          steps[event['draw']] = (event['step'], event['steps'])
          yield progress(steps, given['n']), *[gr.skip()] * 5
        else:
          drawn.append(event)
    except Told as error:
      yield wrong(error), *[gr.skip()] * 5
      return
    yield done(f'{len(drawn)} drawn, seed {given["seed"]}'), [
        (decode(base64.b64decode(event['b64_json'])), event['size']) for event in drawn
    ], *[gr.skip()] * 4


def asked_of(given: dict[str, Any]) -> Asked:
  """The request of what stands in the page; fields that are empty are left out."""
  images = [Given(role, *read(path)) for role in GIVEN for path, _ in given.pop(role, None) or ()]
  sizes = [size.strip() for size in given.pop('sizes', '').split(',') if size.strip()]
  if sizes:
    given = {name: value for name, value in given.items() if name != 'size'} | dict(sizes=sizes)
  return Asked({name: value for name, value in given.items() if value is not None}, images)


def read(path: str) -> tuple[str, bytes]:
  """Name and bytes of a file that was uploaded; the door has seen to where it is."""
  file = pathlib.Path(path)
  return file.name, file.read_bytes()


def origin_of(request: gr.Request) -> str:
  """``http://HOST:PORT``, as whoever has opened the page knows the server."""
  url = request.request.url
  return f'{url.scheme}://{url.netloc}'


def number(label: str, value: float, **options: Any) -> gr.Number:
  """A field of a number; whether it is one that can be drawn is for the API to say."""
  return gr.Number(value, label=label, min_width=90, **options)


def status(name: str) -> gr.HTML:
  """The line that says how it goes."""
  return gr.HTML(elem_id=name, elem_classes='status')


def request_views(name: str) -> Sequence[gr.Code]:
  """The exact request as JSON, as a call of the API, and as one of the command."""
  with gr.Accordion('The request', open=False, elem_id=name):
    return [gr.Code(label=label, language=language, interactive=False, wrap_lines=True)
            for label, language in (('JSON', 'json'), ('curl', 'shell'),
                                    ('jaxgen sample', 'shell'))]


def progress(steps: dict[int, tuple[int, int]], draws: int) -> str:
  """A bar of the steps of all draws.

  Args:
    steps: number of a draw -> (steps done, and in all).
    draws: in all.
  """
  if not steps:
    return '<progress></progress> waits for its turn'
  done_, total = sum(step for step, _ in steps.values()), draws * max(
      total for _, total in steps.values())
  return f'<progress value="{done_}" max="{total}"></progress> step {done_} of {total}'


def done(text: str) -> str:
  """The end of what was asked."""
  return f'<span>{html.escape(text)}</span>'


def wrong(error: Exception) -> str:
  """What is wrong, one line."""
  return f'<span class="wrong" role="alert">{html.escape(str(error))}</span>'


def stopped() -> str:
  """The line of what was given up."""
  return done('stopped')
