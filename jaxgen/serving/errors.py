"""What goes wrong, in the schema of OpenAI's API: one object with one clear line."""

import asyncio
import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request
from starlette.responses import JSONResponse

from jaxgen.core.errors import UserError
from jaxgen.data.decode import DecodeError
from jaxgen.serving.engine import Late
from jaxgen.serving.engine import Refused

_log = logging.getLogger('jaxgen.serving')
SHOWN = 600  # characters of a message
# Status -> type of error, as OpenAI's clients know it.
_TYPES = {401: 'authentication_error', 404: 'not_found_error', 429: 'rate_limit_error'}


class ApiError(Exception):
  """An answer other than what was asked for.

  Args:
    status: of HTTP.
    message: one line: field, value and fix.
    param: field of the call at fault.
    code: short name that programs can read.
    headers: of the answer.
  """

  def __init__(self, status: int, message: str, *, param: str | None = None,
               code: str | None = None, headers: dict[str, str] | None = None):
    super().__init__(_plain(message))
    self.status, self.code, self.headers = status, code, headers or {}
    self.param = param and _plain(param)

  @property
  def body(self) -> dict[str, Any]:
    """As OpenAI's API has it."""
    kind = _TYPES.get(self.status, 'server_error' if self.status >= 500 else
                      'invalid_request_error')
    return {'error': dict(message=str(self), type=kind, param=self.param, code=self.code)}

  @property
  def response(self) -> JSONResponse:
    """As a response."""
    return JSONResponse(self.body, self.status, self.headers)


def api_error(error: BaseException) -> ApiError:
  """Any exception as what the client is told; defects are logged and not told."""
  match error:
    case ApiError():
      return error
    case UserError():
      return ApiError(400, str(error), param=_param(str(error)), code='invalid_value')
    case DecodeError():
      return ApiError(400, f'image: cannot be read: {error}', param='image', code='invalid_image')
    case Refused() if error.retry_after:
      return ApiError(429, f'queue: {error}', code='queue_full',
                      headers={'Retry-After': str(error.retry_after)})
    case Refused():
      return ApiError(503, f'server: {error}', code='stopping')
    case Late() | TimeoutError() | asyncio.TimeoutError():
      return ApiError(504, 'timeout: the request was not done in time; ask for less, or later',
                      code='timeout')
    case ClientDisconnect():
      return ApiError(499, 'client: has left', code='left')
    case HTTPException():
      return ApiError(error.status_code, f'request: {error.detail}', headers=dict(
          error.headers or {}))
  _log.error('a defect', exc_info=error)
  return ApiError(500, 'server: a defect; its log has the traceback', code='internal_error')


async def on_error(request: Request, error: Exception) -> JSONResponse:
  """Handler of what the router refuses."""
  del request
  return api_error(error).response


def _plain(text: str) -> str:
  """The text, of which clients send parts, as one line of characters that can be sent."""
  return ' '.join(text.encode('utf-8', 'backslashreplace').decode().split())[:SHOWN]


def _param(message: str) -> str | None:
  """The field that a line of ``user_error`` begins with, without the ``request: `` of ours."""
  field = message.removeprefix('request: ').split(':')[0].split(' = ')[0]
  return field if field.replace('_', '').replace('.', '').isalnum() else None
