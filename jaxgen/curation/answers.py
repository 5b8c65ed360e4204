"""Answers of language models that must have a form: read, and asked for again where they have not.

Models answer at temperature 0 and answers are kept, so that asking the same again is of no use: the
second question shows the first answer and says what is wrong with it.
"""

import ast
import dataclasses
import json
import re
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from PIL import Image

from jaxgen.core.image_files import to_jpeg
from jaxgen.curation.models import Model
from jaxgen.curation.models import Reply
from jaxgen.curation.models import Request
from jaxgen.data.decode import decode

AGAIN = ('{text}\n\nYour last answer was:\n{answer}\n\nIt cannot be used: {error}. Answer again, '
         'in full and in the form that was asked for.')
_FENCE = re.compile(r'```\w*\n?')


@dataclasses.dataclass(frozen=True)
class Answer:
  """What was read of an answer.

  Attributes:
    value: what ``read`` gave.
    error: why there is no value.
    asked: how often.
  """

  value: Any = None
  error: str = ''
  asked: int = 1


def answers(model: Model, requests: Sequence[Request], read: Callable[[str], Any], *,
            again: int = 1) -> list[Answer]:
  """Asks, and asks again where an answer has not the form.

  Args:
    model: a language model.
    requests: questions.
    read: makes a value of an answer's text, or raises a ``ValueError`` that says what is wrong.
    again: how often a question is repeated at the most.
  """
  found: dict[int, Answer] = {}
  open_, asked = dict(enumerate(requests)), 0
  while open_:
    asked += 1
    left = {}
    for (place, request), reply in zip(open_.items(), model.ask(list(open_.values()))):
      found[place] = dataclasses.replace(_read(reply, read), asked=asked)
      # A refusal is none of form: it will be said again.
      if found[place].error and not reply.error and asked <= again:
        left[place] = dataclasses.replace(request, text=AGAIN.format(
            text=requests[place].text, answer=reply.text, error=found[place].error))
    open_ = left
  return [found[place] for place in range(len(requests))]


def answer(model: Model, request: Request, read: Callable[[str], Any], *, again: int = 1) -> Answer:
  """As ``answers``, of one question."""
  return answers(model, [request], read, again=again)[0]


def value_of(text: str, kind: type) -> Any:
  """The JSON list or object in an answer, whatever stands around it.

  Lists in single quotes are read too, as the prompt of Query-Kontext shows them (L070).

  Raises:
    ValueError: there is none.
  """
  opening, closing = ('[', ']') if kind is list else ('{', '}')
  text = _FENCE.sub('', text)
  start, end = text.find(opening), text.rfind(closing)
  if not 0 <= start < end:
    raise ValueError(f'it holds no JSON {"list" if kind is list else "object"}')
  body = text[start:end + 1]
  try:
    return json.loads(body, strict=False)  # models write line breaks into strings
  except ValueError as error:
    try:
      value = ast.literal_eval(body.replace('\n', ' '))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      raise ValueError(f'it is no valid JSON ({error})') from None
    if not isinstance(value, kind):
      raise ValueError('it is no valid JSON') from None
    return value


def scores(text: str, names: Sequence[str]) -> dict[str, float]:
  """Numbers from 0 to 10 by their names, in a JSON object.

  Raises:
    ValueError: one is missing, or no such number.
  """
  found = value_of(text, dict)
  made = {name: found.get(name) for name in names}
  if not all(type(score) in (int, float) and 0 <= score <= 10 for score in made.values()):
    raise ValueError('it must have ' + ' and '.join(f'"{name}"' for name in names)
                     + ', numbers from 0 to 10')
  return {name: float(score) for name, score in made.items()}


def shown(image: bytes, side: int = 768) -> bytes:
  """The image as it is sent to a model: a file of no more than ``side`` pixels."""
  picture = Image.fromarray(decode(image))
  if max(picture.size) <= side and image.startswith((b'\x89PNG', b'\xff\xd8')):
    return image
  picture.thumbnail((side, side))
  return to_jpeg(picture, quality=90)


def _read(reply: Reply, read: Callable[[str], Any]) -> Answer:
  if reply.error:
    return Answer(error=reply.error)
  try:
    return Answer(read(reply.text))
  except ValueError as error:
    return Answer(error=str(error))
