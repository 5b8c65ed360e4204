"""The kinds of models: endpoints, models of jaxgen, ONNX files, towers and kept answers."""

import base64
import concurrent.futures
import json
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jaxgen.core.endpoint import Endpoint
from jaxgen.core.endpoint import image_url
from jaxgen.core.endpoint import Unanswered
from jaxgen.core.errors import user_error
from jaxgen.core.image_files import to_jpeg
from jaxgen.core.image_files import to_png
from jaxgen.curation.extras import extra
from jaxgen.curation.models import Model
from jaxgen.curation.models import Reply
from jaxgen.curation.models import Request
from jaxgen.curation.web import Web
from jaxgen.data.decode import decode
from jaxgen.data.decode import read_picture

AT_ONCE = 16  # calls of one endpoint from one process
SIDE = 640  # of an image, where a detector takes any


class Remote:
  """An endpoint; ``_read`` makes one call of it."""

  def __init__(self, name: str, what: str):
    model, _, url = what.partition('@')
    self._name, self._endpoint = name, Endpoint(
        model, url, where=f'--model {name}', url_where='the url behind @', extra='curate')

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """See ``Model``; up to ``AT_ONCE`` at a time."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
      return list(pool.map(self._one, requests))

  def _one(self, request: Request) -> Reply:
    try:
      return self._endpoint.call(lambda client: self._read(client, request))
    except Unanswered as failure:
      if failure.refused:
        return Reply(error=str(failure))
      raise user_error(f'--model {self._name}', self._endpoint.model, 'does not answer: '
                       f'{failure}; run the command again once it does') from None

  def _read(self, client: Any, request: Request) -> Reply:
    raise NotImplementedError


class Chat(Remote):
  """A language model that also sees images, at temperature 0."""

  def _read(self, client: Any, request: Request) -> Reply:
    content = [dict(type='image_url', image_url=dict(url=image_url(_sent(image, request.side))))
               for image in request.images]
    messages = [dict(role='system', content=request.system)] if request.system else []
    messages += [dict(role='user', content=[*content, dict(type='text', text=request.text)]
                      if content else request.text)]
    answer = client.chat.completions.create(model=self._endpoint.model, messages=messages,
                                            temperature=0, seed=request.seed)
    choice = answer.choices[0]
    tokens = answer.usage.total_tokens if answer.usage else 0
    if choice.finish_reason == 'length':
      return Reply(error='the answer was cut at its length', tokens=tokens)
    return Reply(choice.message.content.strip(), tokens=tokens)


class Images(Remote):
  """A model that draws, or edits the images that it is given."""

  def _read(self, client: Any, request: Request) -> Reply:
    options = dict(model=self._endpoint.model, prompt=request.text, response_format='b64_json')
    if request.size:
      options['size'] = f'{request.size[1]}x{request.size[0]}'
    if request.images:
      files = [(f'{number}.png', to_png(decode(image)))
               for number, image in enumerate(request.images)]
      answer = client.images.edit(image=files, **options)
    else:
      answer = client.images.generate(**options)
    tokens = answer.usage.total_tokens if answer.usage else 0
    return Reply(images=tuple(base64.b64decode(each.b64_json) for each in answer.data),
                 tokens=tokens)


class Drawn:
  """A workdir, or else a published pipeline: a folder or owner/name on the hub."""

  def __init__(self, name: str, what: str):
    from jaxgen.conversion.pipelines import open_pipeline
    from jaxgen.conversion.pretrained import read_external
    from jaxgen.sampling.load import published
    from jaxgen.sampling.load import trained
    origin = (trained(what) if (epath.Path(what) / 'config.json').exists()
              else published(open_pipeline(what).config, read_external))
    self._run = origin.load()

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """See ``Model``; given images are sources."""
    from jaxgen.sampling.request import make_request
    made = [make_request(self._run.config, request.text, size=request.size, source=request.images,
                         seed=request.seed) for request in requests]
    return [Reply(images=tuple(map(to_png, images))) for images in self._run.draw(made)]


class Detector:
  """An ONNX file of images, float32 or uint8 [1, 3, H, W] each, and any outputs.

  The images of a request go to its inputs in their order, stretched to H x W, 640 where the file
  leaves it open. What of their values the model expects stands in the file's metadata as JSON
  numbers or lists, by the names ``mean`` and ``std`` over values of 0 to 1; without them they are
  0 and 1. Outputs come without their first axis.
  """

  def __init__(self, name: str, what: str):
    onnxruntime = extra('onnxruntime', 'onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # workers are processes: each has one core
    try:
      self._session = onnxruntime.InferenceSession(what, options)
    except Exception as error:  # onnxruntime has a class for each of its states
      raise user_error(f'--model {name}', what, f'no ONNX file ({type(error).__name__})') from None
    self._inputs = self._session.get_inputs()
    facts = self._session.get_modelmeta().custom_metadata_map
    self._mean, self._std = (np.reshape(np.asarray(json.loads(facts.get(key, default)),
                                                   np.float32), (-1, 1, 1))
                             for key, default in (('mean', '0'), ('std', '1')))

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """See ``Model``."""
    names = [output.name for output in self._session.get_outputs()]
    return [Reply(arrays={name: array[0] for name, array in zip(names, self._session.run(None, {
        given.name: self._pixels(image, given)
        for given, image in zip(self._inputs, request.images, strict=True)}))})
            for request in requests]

  def _pixels(self, image: bytes, given: Any) -> np.ndarray:
    """[1, 3, H, W]"""
    height, width = (side if isinstance(side, int) else SIDE for side in given.shape[2:])
    stretched = np.asarray(Image.fromarray(decode(image)).resize((width, height)))
    pixels = stretched.transpose(2, 0, 1)[None]
    if 'uint8' in given.type:
      return pixels
    return ((pixels.astype(np.float32) / 255 - self._mean) / self._std).astype(np.float32)


class Features:
  """A feature tower: CLIP or SigLIP of images and texts, DINO of images alone.

  A request with images gets their ``features``, f32[E] of one and f32[n, E] of several, one with a
  text those of the text, in the same space. The tower lies on all devices of the process.
  """

  def __init__(self, name: str, what: str):
    from jaxgen.features.towers import open_tower
    del name
    self._tower = open_tower(what)

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """See ``Model``; all images are embedded together, and all texts."""
    from jaxgen.features.embed import embed_images
    from jaxgen.features.embed import embed_texts
    images = embed_images(self._tower, [image for each in requests for image in each.images])
    said = [each.text for each in requests if not each.images]
    texts = iter(embed_texts(self._tower, said) if said else ())
    ends = np.cumsum([len(each.images) for each in requests])
    found = [images[end - len(each.images):end] if each.images else next(texts)[None]
             for each, end in zip(requests, ends)]
    return [Reply(arrays=dict(features=rows[0] if len(rows) == 1 else rows)) for rows in found]


class Replay:
  """Lines of JSON: ``text`` and ``system`` that a request must have (any where they are absent),
  and what is answered: ``reply``, a text, ``arrays``, or ``images``, paths beside the file. The
  first line that fits counts."""

  def __init__(self, name: str, what: str):
    self._file, self._name = epath.Path(what), name
    if not self._file.exists():
      raise user_error(f'--model {name}', what, 'no such file')
    self._lines = [json.loads(line) for line in self._file.read_text().splitlines() if line.strip()]

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """See ``Model``."""
    return [self._one(request) for request in requests]

  def _one(self, request: Request) -> Reply:
    for line in self._lines:
      if all(line.get(field, getattr(request, field)) == getattr(request, field)
             for field in ('text', 'system')):
        images = tuple((self._file.parent / path).read_bytes() for path in line.get('images', ()))
        arrays = {key: np.asarray(value, np.float32) for key, value in line.get(
            'arrays', {}).items()}
        return Reply(line.get('reply', ''), images, arrays, line.get('error', ''))
    raise user_error(f'--model {self._name}', str(self._file), 'has no answer to '
                     f'{request.text[:80]!r}')


def _sent(image: bytes, side: int) -> bytes:
  """A PNG or JPEG file that is no larger; endpoints take no others for certain."""
  if not side and image.startswith((b'\x89PNG', b'\xff\xd8')):
    return image
  picture = Image.fromarray(np.asarray(read_picture(image, (side, side) if side else None).pixels))
  if side:
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
  return to_jpeg(picture)


KINDS: dict[str, Callable[[str, str], Model]] = {
    'chat': Chat, 'images': Images, 'jaxgen': Drawn, 'onnx': Detector, 'tower': Features,
    'replay': Replay, 'web': Web}
