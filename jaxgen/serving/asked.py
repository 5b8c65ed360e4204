"""A request as the API takes it, as JSON to read, and as commands of a shell that draw the same."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from typing import Any

DRAW, EDIT, CHAT = '/v1/images/generations', '/v1/images/edits', '/v1/chat/completions'
KEY = 'JAXGEN_KEY'  # variable of a shell that holds a key
SHOWN = 40  # characters of an image in JSON that is read


@dataclasses.dataclass(frozen=True)
class Server:
  """What commands need to know.

  Attributes:
    flags: of ``jaxgen sample``, that name the run.
    guarded: whether clients need a key.
  """

  flags: Sequence[str] = ()
  guarded: bool = False

  def curl(self, address: str, *rest: str) -> str:
    """A call of the API at ``http://HOST:PORT/v1/...``."""
    key = [f'-H "Authorization: Bearer ${KEY}"'] if self.guarded else []
    return ' \\\n  '.join([f'curl -s {shlex.quote(address)}', *key, *rest, '-o answer.json'])

  def sample(self, out: str, *rest: str) -> str:
    """A call of ``jaxgen sample``."""
    return ' \\\n  '.join(['jaxgen sample', *map(shlex.quote, (*self.flags, *rest)),
                           f'--out={out}'])


@dataclasses.dataclass(frozen=True)
class Given:
  """An image that goes with a request.

  Attributes:
    role: of the image.
    name: of its file.
    data: bytes of its file.
  """

  role: str
  name: str
  data: bytes


@dataclasses.dataclass(frozen=True)
class Asked:
  """A request for images.

  Attributes:
    fields: of the API, without images and their roles.
    images: given ones.
  """

  fields: dict[str, Any]
  images: Sequence[Given] = ()

  @property
  def route(self) -> str:
    """That answers it."""
    return EDIT if self.images else DRAW

  @property
  def whole(self) -> dict[str, Any]:
    """All fields but the images."""
    roles = [image.role for image in self.images]
    return self.fields | (dict(roles=roles) if roles else {})

  def body(self, **more: Any) -> dict[str, Any]:
    """As ``httpx`` sends it, with further fields."""
    if not self.images:
      return dict(json=self.fields | more)
    return dict(data={name: value if isinstance(value, list) else _text(value)
                      for name, value in (self.whole | more).items()},
                files=[('image', (image.name, image.data)) for image in self.images])

  def json(self) -> str:
    """Its fields; images by the names of their files."""
    names = [image.name for image in self.images]
    return json.dumps(self.whole | (dict(image=names) if names else {}), indent=2,
                      ensure_ascii=False)

  def curl(self, server: Server, origin: str) -> str:
    """The command that sends it to a server at ``http://HOST:PORT``."""
    if not self.images:
      return server.curl(origin + self.route, "-H 'Content-Type: application/json'",
                         f'-d {shlex.quote(json.dumps(self.fields, ensure_ascii=False))}')
    fields = [(name, each) for name, value in self.whole.items()
              for each in (value if isinstance(value, list) else [_text(value)])]
    return server.curl(
        origin + self.route, *(f'--form-string {shlex.quote(f"{name}={value}")}'
                               for name, value in fields),
        *(f'-F {shlex.quote(f"image=@{image.name}")}' for image in self.images))

  def sample(self, server: Server) -> str:
    """The command that draws it without a server; draws are prompts that are given again."""
    fields = self.fields
    sizes = fields.get('sizes') or [fields.get('size', 'auto')]
    if len(set(sizes)) > 1:
      return '# jaxgen sample draws all outputs of a request at one size'
    width, _, height = sizes[0].partition('x')
    return server.sample(
        'drawn', *[f'--prompt={fields["prompt"]}'] * fields.get('n', 1),
        *(f'--{image.role}={image.name}' for image in self.images),
        *([f'--size={height}x{width}'] if height else []),
        *(f'--{name.replace("_", "-")}={fields[name]}' for name in (
            'outputs', 'seed', 'steps', 'guidance', 'image_guidance') if name in fields))


def shortened(value: Any) -> Any:
  """JSON with the middle of its images left out."""
  if isinstance(value, dict):
    return {name: shortened(item) for name, item in value.items()}
  if isinstance(value, list):
    return [shortened(item) for item in value]
  if isinstance(value, str) and value.startswith('data:') and len(value) > 2 * SHOWN:
    return f'{value[:SHOWN]}... ({len(value)} characters)'
  return value


def _text(value: Any) -> str:
  """A value as a form has it."""
  return value if isinstance(value, str) else json.dumps(value)
