"""A client of any endpoint of OpenAI's type, which tries again what is worth it."""

import base64
import time
from collections.abc import Callable
from typing import Any
from typing import TypeVar

from jaxgen.core.errors import user_error
from jaxgen.core.errors import UserError
from jaxgen.core.files import one_line

Answer = TypeVar('Answer')


class Unanswered(Exception):
  """An endpoint that gave nothing usable after all tries; the message says why.

  Attributes:
    refused: whether it will say the same of this call at any time.
  """

  def __init__(self, error: Exception, refused: bool = False):
    super().__init__(f'{type(error).__name__}: {one_line(error)}')
    self.refused = refused


class Endpoint:
  """Calls of one model.

  Args:
    model: name at the endpoint.
    url: of the endpoint; '' takes ``OPENAI_BASE_URL``, or OpenAI's. The key is ``OPENAI_API_KEY``.
    tries: of each call; the client waits longer after each failure.
    timeout: seconds for one try.
    where: flag that names the model, for errors.
    url_where: the same of the url.
    extra: of jaxgen, which installs the client.

  Raises:
    UserError: no client is installed, or there is no key.
  """

  def __init__(self, model: str, url: str = '', *, tries: int = 5, timeout: float = 120.0,
               where: str, url_where: str, extra: str):
    self.model, self._where, self._url_where = model, where, url_where
    # After an answer of another form; the last one is not waited for.
    self._waits = [*(min(0.5 * 2**turn, 8.0) for turn in range(tries - 1)), 0.0]
    try:
      import openai
    except ModuleNotFoundError:
      raise user_error(where, model, f'needs the package openai; pip install "jaxgen[{extra}]"'
                       ) from None
    try:
      self._client = openai.OpenAI(base_url=url or None, max_retries=tries - 1, timeout=timeout)
    except openai.OpenAIError as error:
      raise user_error(where, model, f'{one_line(error)}; set OPENAI_API_KEY') from None

  def call(self, read: Callable[[Any], Answer]) -> Answer:
    """What ``read`` makes of the client, an ``openai.OpenAI``.

    Answers of another form than it expects are asked for again.

    Raises:
      UserError: the endpoint refuses the key, or does not know the model.
      Unanswered: nothing usable came.
    """
    import openai
    error: Exception | None = None
    for wait in self._waits:
      try:
        return read(self._client)
      except (openai.AuthenticationError, openai.PermissionDeniedError,
              openai.NotFoundError) as refusal:
        raise self._refused(refusal) from None
      except openai.BadRequestError as refusal:
        raise Unanswered(refusal, refused=True) from refusal
      except openai.OpenAIError as late:  # the client has tried it again already
        raise Unanswered(late) from late
      except (ValueError, AttributeError, TypeError, IndexError) as malformed:
        error = malformed
        time.sleep(wait)
    assert error is not None
    raise Unanswered(error) from error

  def check(self) -> None:
    """Asks for no answer, so that a model that cannot give one is found before there is a question.

    Raises:
      UserError: the endpoint cannot be reached, refuses the key, or lists its models without this
        one. An endpoint that has no list is taken as it is.
    """
    import openai
    try:
      known = [model.id for model in self._client.models.list()]
    except (openai.AuthenticationError, openai.PermissionDeniedError) as refusal:
      raise self._refused(refusal) from None
    except openai.APIConnectionError as error:
      raise user_error(self._where, self.model, 'the endpoint cannot be reached '
                       f'({one_line(error)}); see {self._url_where}') from None
    except (openai.OpenAIError, ValueError, AttributeError, TypeError):
      return
    if known and self.model not in known:
      raise user_error(self._where, self.model, f'the endpoint has {", ".join(known[:5])}'
                       f'{" and others" if len(known) > 5 else ""}; name one of its models')

  def _refused(self, refusal: Exception) -> UserError:
    return user_error(self._where, self.model, f'the endpoint refuses: {one_line(refusal)}; see '
                      f'OPENAI_API_KEY, the model and {self._url_where}')


def image_url(data: bytes) -> str:
  """A PNG or JPEG file as the address that messages carry it in."""
  kind = 'png' if data.startswith(b'\x89PNG') else 'jpeg'
  return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
