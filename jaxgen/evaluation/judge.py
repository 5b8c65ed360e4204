"""A judge behind any endpoint of OpenAI's type: many calls at once, every reply kept on disk.

Replies are lines of a JSON Lines file, each with its judge, date and hash of the rubric. What is
there is not asked again, so that scoring goes on where it was killed, and can be repeated without
a network.
"""

import concurrent.futures
import dataclasses
import datetime
import functools
import hashlib
import io
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jaxgen.core.endpoint import Endpoint
from jaxgen.core.endpoint import Unanswered
from jaxgen.core.endpoint import image_url
from jaxgen.core.errors import user_error
from jaxgen.core.files import append_line
from jaxgen.core.files import read_lines
from jaxgen.core.image_files import to_png
from jaxgen.evaluation.rubrics import Turn

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the sides
_NEEDED = {'item': str, 'question': str, 'model': str, 'rubric': str, 'asked': str}
TOP = 20  # tokens whose probabilities an endpoint gives at the most


@dataclasses.dataclass(frozen=True)
class Call:
  """One question to the judge.

  Attributes:
    item, question: which two name it among all of an evaluation.
    rubric: hash of the rubric behind ``turns``.
    turns: texts by role; the images follow the last one.
    images: paths, or (path, box) for a part of an image.
    side: pixels of the longer side at the most; 0 is as it is.
    words: whether the reply is one token, whose probabilities are asked for.
  """

  item: str
  question: str
  rubric: str
  turns: Sequence[Turn]
  images: Sequence[str | tuple[str, Box]] = ()
  side: int = 0
  words: bool = False


@dataclasses.dataclass(frozen=True)
class Reply:
  """What came back.

  Attributes:
    text: None where nothing did.
    cut: the reply ended before the judge did, and must not be read: 1 may have become 10.
    error: why there is no text.
    tokens: number of tokens read and written.
    probabilities: of the first token, by its text, where they were asked for and given.
    date: of the reply, ISO 8601.
    served: the model that the endpoint says has answered, mostly with its version.
  """

  text: str | None
  cut: bool = False
  error: str = ''
  tokens: tuple[int, int] = (0, 0)
  probabilities: Mapping[str, float] | None = None
  date: str = ''
  served: str = ''


class Judge:
  """Asks one model.

  Args:
    model: name at the endpoint.
    file: the JSON Lines file of replies; ``replay`` reads nothing else.
    url: of the endpoint; '' takes ``OPENAI_BASE_URL``, or OpenAI's. The key is ``OPENAI_API_KEY``.
    replay: whether to ask nothing and read what is there.
    concurrency: calls at once.
    tries: of each call; the client waits longer after each failure.
    timeout: seconds for one try.
    options: of the call, over temperature 0: ``max_tokens``, ``extra_body``, ...
  """

  def __init__(self, model: str, file: epath.PathLike, *, url: str = '', replay: bool = False,
               concurrency: int = 16, tries: int = 5, timeout: float = 120.0,
               options: Mapping[str, Any] | None = None):
    self.model, self.replay = model, replay
    self._file, self._concurrency = epath.Path(file), concurrency
    self._options = dict(temperature=0) | dict(options or {})
    self._lock = threading.Lock()
    self._endpoint = None if replay else Endpoint(
        model, url, tries=tries, timeout=timeout, where='--judge', url_where='--judge-url',
        extra='eval')

  def ask(self, calls: Sequence[Call], progress: Callable[[int, int], None] = lambda done, total:
          None) -> list[Reply]:
    """The replies to all calls, in their order; those on disk are not asked for again.

    Raises:
      UserError: the endpoint refuses the key or does not know the model, or an image is missing.
    """
    kept, replies, left = self._kept(), {}, []
    # Several questions may show one image, which is read once for them.
    hashed = functools.cache(lambda path: hashlib.sha256(_bytes(path)).digest())
    asked = [None if self.replay else _digest(call, self._options, hashed) for call in calls]
    for number, (call, digest) in enumerate(zip(calls, asked, strict=True)):
      line = kept.get((call.item, call.question, call.rubric))
      if line and (self.replay or line['asked'] == digest):
        replies[number] = _reply(line)
      elif self.replay:
        replies[number] = Reply(None, error='not on disk')
      else:
        left.append(number)
    with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
      waiting = {pool.submit(self._one, calls[number], asked[number]): number for number in left}
      try:
        for future in concurrent.futures.as_completed(waiting):
          replies[waiting[future]] = future.result()
          progress(len(replies), len(calls))
      except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    return [replies[number] for number in range(len(calls))]

  def check(self) -> None:
    """Finds out before there is anything to ask whether the judge can answer.

    Raises:
      UserError: see ``Endpoint.check``.
    """
    if self._endpoint is not None:
      self._endpoint.check()

  def _kept(self) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The last line of each question that this model answered."""
    return {(line['item'], line['question'], line['rubric']): line
            for line in read_lines(self._file, _NEEDED)
            if line['model'] == self.model and not line.get('error')}

  def _one(self, call: Call, asked: str) -> Reply:
    began = time.monotonic()
    line = dict(item=call.item, question=call.question, model=self.model, rubric=call.rubric,
                asked=asked, date=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'))
    line |= self._answer(call)
    line['seconds'] = round(time.monotonic() - began, 3)
    with self._lock:
      append_line(self._file, json.dumps(line, ensure_ascii=False))
    return _reply(line)

  def _answer(self, call: Call) -> dict[str, Any]:
    """The fields of a line that come from the endpoint."""
    try:
      return self._endpoint.call(lambda client: self._read(client, call))
    except Unanswered as failure:
      return dict(text=None, error=str(failure))

  def _read(self, client: Any, call: Call) -> dict[str, Any]:
    options = dict(self._options)
    if call.words:
      options |= dict(max_tokens=1, logprobs=True, top_logprobs=TOP)
    answer = client.chat.completions.create(model=self.model, messages=_messages(call), **options)
    choice, usage = answer.choices[0], answer.usage
    tops = choice.logprobs.content[0].top_logprobs if choice.logprobs else None
    return dict(text=choice.message.content, finish=choice.finish_reason, served=answer.model,
                tokens=[usage.prompt_tokens, usage.completion_tokens] if usage else [0, 0],
                probabilities=tops and {top.token: math.exp(top.logprob) for top in tops})


def _messages(call: Call) -> list[dict[str, Any]]:
  messages = [dict(role=role, content=text) for role, text in call.turns]
  if call.images:
    text = messages[-1]['content']
    messages[-1]['content'] = [
        *([dict(type='text', text=text)] if text else []),
        *(dict(type='image_url', image_url=dict(url=_data_url(image, call.side)))
          for image in call.images)]
  return messages


def _data_url(image: str | tuple[str, Box], side: int) -> str:
  data = _bytes(image if isinstance(image, str) else image[0])
  if not isinstance(image, str) or side:
    picture = Image.open(io.BytesIO(data)).convert('RGB')
    if not isinstance(image, str):
      width, height = picture.size
      left, top, right, bottom = image[1]
      picture = picture.crop((round(left * width), round(top * height), round(right * width),
                              round(bottom * height)))
    if side:
      picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    data = to_png(np.asarray(picture))
  return image_url(data)


def _bytes(path: str) -> bytes:
  try:
    return epath.Path(path).read_bytes()
  except OSError:
    raise user_error(path, None, 'no such image; draw it first') from None


def _digest(call: Call, options: Mapping[str, Any], hashed: Callable[[str], bytes]) -> str:
  """Changes with whatever the judge is shown; ``hashed`` is of the bytes of a file."""
  shown = hashlib.sha256(json.dumps([list(map(list, call.turns)), call.side, call.words,
                                     options], sort_keys=True).encode())
  for image in call.images:
    path, box = (image, None) if isinstance(image, str) else image
    shown.update(hashed(path))
    shown.update(b'' if box is None else repr(box).encode())
  return shown.hexdigest()[:24]


def _reply(line: Mapping[str, Any]) -> Reply:
  return Reply(line.get('text'), line.get('finish') == 'length' and not line.get('probabilities'),
               line.get('error', ''), tuple(line.get('tokens') or (0, 0)),
               line.get('probabilities'), line.get('date', ''), line.get('served') or '')
