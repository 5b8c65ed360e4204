"""Models that stages ask: one small protocol, with every answer kept and every call counted.

A model answers requests; what it is stands in the recipe or on the command line as KIND:NAME:

  chat:MODEL@URL     texts for texts and images, by an endpoint of OpenAI's type
  images:MODEL@URL   images for texts and images, by such an endpoint
  jaxgen:PATH        images for texts and images, by a workdir or a published pipeline
  onnx:FILE          arrays for images, by ONNX Runtime
  tower:PATH         features of images or texts, by a CLIP, SigLIP or DINO of transformers
  replay:FILE        the answers in a JSON Lines file, for tests and for a repetition
  web:AGENT          the bytes at an address; ``--fetch=AGENT`` completes a bare ``web:``

``@URL`` may be left out for OpenAI's own.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_text
from jaxgen.curation.recipe import Limits


@dataclasses.dataclass(frozen=True)
class Request:
  """One question.

  Attributes:
    text: the prompt.
    images: image files that follow it, or that are looked at.
    system: prompt of the system, for a language model.
    side: pixels that an endpoint is shown of the longer side of each image at the most; 0 is as
      it is.
    size: (height, width) of an image that is asked for; None = the model's own.
    seed: of an image that is asked for.
  """

  text: str = ''
  images: tuple[bytes, ...] = ()
  system: str = ''
  side: int = 0
  size: tuple[int, int] | None = None
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Reply:
  """One answer.

  Attributes:
    text: of a language model.
    images: files of those that were drawn.
    arrays: outputs of a detector or tower, by name.
    error: why there is no answer, where the model will never give one: it refuses, or the answer
      was cut at its length. A model that is out of order raises a ``UserError`` instead.
    tokens: read and written.
  """

  text: str = ''
  images: tuple[bytes, ...] = ()
  arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  error: str = ''
  tokens: int = 0


class Model(Protocol):
  """What a stage gets for a ``Use``."""

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """The answers, in order.

    Raises:
      UserError: the model cannot be reached, or a limit is spent.
    """
    ...


def identity(spec: str) -> str:
  """What of KIND:NAME tells two models apart; where an endpoint stands does not."""
  kind, _, name = spec.partition(':')
  if kind == 'web':
    return kind
  if kind in ('chat', 'images'):
    return f'{kind}:{name.partition("@")[0]}'
  if kind in ('replay', 'onnx') and os.path.isfile(name):
    with open(name, 'rb') as file:
      return f'{kind}:{hashlib.file_digest(file, "sha256").hexdigest()[:16]}'
  return spec


def runs_here(spec: str) -> bool:
  """Whether a model runs on the accelerators of the process that asks it."""
  return spec.partition(':')[0] in ('jaxgen', 'tower')


def open_model(name: str, spec: str, calls: epath.Path, limits: Limits | None = None,
               workers: int = 1) -> 'Kept':
  """The model of a recipe, which is not loaded before it is first asked.

  Args:
    name: in the recipe.
    spec: KIND:NAME, as above.
    calls: folder of all answers.
    limits: None for none.
    workers: processes that share the limits.

  Raises:
    UserError: no such kind, or nothing is named.
  """
  from jaxgen.curation import plugins
  kind, _, what = spec.partition(':')
  if kind == 'web' and not what:
    raise user_error('--fetch', '', f'{name} asks addresses of the web; allow it, and say who '
                     'asks, as --fetch="my-crawler (me@example.org)"')
  if kind not in plugins.KINDS or not what:
    raise user_error(f'--model {name}', spec, 'write KIND:NAME; the kinds are '
                     f'{", ".join(plugins.KINDS)}')
  return Kept(lambda: plugins.KINDS[kind](name, what), name, identity(spec), calls / name,
              limits or Limits(), workers)


class Kept:
  """A model whose answers are kept by the content of their requests, within limits.

  An answer is a file of its own, named by the hash of the model and of what it was shown, so that
  workers share them without a lock.

  Args:
    load: opens the model.
    name: in the recipe.
    model: its identity.
    folder: of its answers.
    limits: in all.
    workers: processes that share the limits.
  """

  def __init__(self, load: Any, name: str, model: str, folder: epath.Path, limits: Limits,
               workers: int):
    self._load, self._name, self._identity, self._folder = load, name, model, folder
    self._account = _Account(name, folder / 'spent', limits, workers)
    self._lock, self._model = threading.Lock(), None

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """See ``Model``; what is on disk is not asked for again."""
    files = [self._file(request) for request in requests]
    missing = list(dict.fromkeys(file for file in files if not file.exists()))
    asked = {file: request for file, request in zip(files, requests)}
    if missing:
      self._account.enter(len(missing))
      with self._lock:
        self._model = self._model or self._load()
      for file, reply in zip(missing, self._model.ask([asked[file] for file in missing]),
                             strict=True):
        write_text(file, json.dumps(dict(request=_shown(asked[file]), reply=_plain(reply)),
                                    ensure_ascii=False))
        self._account.pay(reply.tokens)
    return [_reply(json.loads(file.read_text())['reply']) for file in files]

  def _file(self, request: Request) -> epath.Path:
    key = json.dumps([self._identity, _shown(request)], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:40]
    return self._folder / digest[:2] / f'{digest}.json'


class _Account:
  """What was spent on one model, by this run and those before it.

  Each process keeps a file of its own; the sum of all is what counts. Processes that ask at one
  time may exceed a limit by what they ask then.
  """

  def __init__(self, name: str, folder: epath.Path, limits: Limits, workers: int):
    self._name, self._folder, self._limits = name, folder, limits
    self._file = folder / f'{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json'
    self._own = dict(calls=0, tokens=0)
    self._lock, self._next = threading.Lock(), 0.0
    self._pause = 60.0 * workers / limits.per_minute if limits.per_minute else 0.0

  def enter(self, calls: int) -> None:
    """Waits until so many calls may be made, and counts them.

    Raises:
      UserError: they are more than the limits leave.
    """
    with self._lock:
      # The files of all workers are read only where they count.
      spent = self._spent() if self._limits.calls or self._limits.tokens else {}
      for what, most, wanted in (('calls', self._limits.calls, calls),
                                 ('tokens', self._limits.tokens, 1)):
        if most and spent[what] + wanted > most:
          raise user_error(f'limits of {self._name}: {what}', most, f'{spent[what]} are spent; '
                           'raise it in the recipe, and the run goes on')
      self._add(calls=calls)
      start = max(self._next, time.monotonic())
      self._next = start + calls * self._pause
    time.sleep(max(start - time.monotonic(), 0.0))

  def pay(self, tokens: int) -> None:
    """Counts the tokens of a call."""
    with self._lock:
      self._add(tokens=tokens)

  def _add(self, **spent: int) -> None:
    self._own = {what: count + spent.get(what, 0) for what, count in self._own.items()}
    if self._limits.calls or self._limits.tokens:  # buckets take one file once a second
      write_text(self._file, json.dumps(self._own))

  def _spent(self) -> dict[str, int]:
    total = dict(self._own)
    for file in self._folder.glob('*.json') if self._folder.exists() else ():
      with contextlib.suppress(ValueError, OSError):  # another worker is writing it
        if file != self._file:
          other = json.loads(file.read_text())
          total = {what: count + other[what] for what, count in total.items()}
    return total


def _shown(request: Request) -> dict[str, Any]:
  """A request as JSON, its images by their hashes."""
  return dataclasses.asdict(request) | dict(images=[
      hashlib.sha256(image).hexdigest()[:32] for image in request.images])


def _plain(reply: Reply) -> dict[str, Any]:
  return dict(text=reply.text, error=reply.error, tokens=reply.tokens,
              images=[base64.b64encode(image).decode() for image in reply.images],
              arrays={name: dict(dtype=str(array.dtype), shape=array.shape,
                                 data=base64.b64encode(np.ascontiguousarray(array)).decode())
                      for name, array in reply.arrays.items()})


def _reply(value: Mapping[str, Any]) -> Reply:
  return Reply(value['text'], tuple(map(base64.b64decode, value['images'])), {
      name: np.frombuffer(base64.b64decode(array['data']), array['dtype']).reshape(array['shape'])
      for name, array in value['arrays'].items()}, value['error'], value['tokens'])
