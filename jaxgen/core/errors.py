"""Errors that users see: one line with the field or file, the value and the fix.

Every user mistake raises a ``ValueError`` made here; the command line prints only its message and
exits with 1. Any other exception that escapes is a bug in jaxgen and keeps its traceback.
"""

_SHOWN = 300  # characters of a value that a message repeats


class UserError(ValueError):
  """A mistake that the user can fix; the message is complete without the traceback."""


class RecordError(UserError):
  """A mistake in one record of a data set, which can be left out while the others are used.

  Attributes:
    where: the record, as file:line or file.
    reason: the rest of the message: the value, if any, and the fix.
  """

  def __init__(self, where: str, reason: str):
    super().__init__(f'{where}{reason}')
    self.where, self.reason = where, reason.lstrip(' =:')

  def of(self, name: str) -> 'RecordError':
    """The same error, told of the record that is named."""
    return RecordError(f'{name}: {self.where}', str(self).removeprefix(self.where))


def user_error(where: str, value: object, fix: str) -> UserError:
  """Builds the one-line error ``where = value: fix``.

  Args:
    where: the config field (``config.train.rows``) or the file at fault.
    value: the current value; None leaves it out of the message.
    fix: how to correct it, as an imperative.
  """
  return UserError(f'{where}{_reason(value, fix)}')


def record_error(where: str, value: object, fix: str) -> RecordError:
  """As ``user_error``, where only one record of a data set is at fault."""
  return RecordError(where, _reason(value, fix))


def _reason(value: object, fix: str) -> str:
  shown = '' if value is None else f' = {value!r}'
  if len(shown) > _SHOWN:
    shown = f'{shown[:_SHOWN]} ...'
  return f'{shown}: {fix}'
