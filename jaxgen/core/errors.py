"""Errors that users see: one line with the field or file, the value and the fix.

Every user mistake raises a ``ValueError`` made here; the command line prints only its message and
exits with 1. Any other exception that escapes is a bug in jaxgen and keeps its traceback.
"""


class UserError(ValueError):
  """A mistake that the user can fix; the message is complete without the traceback."""


def user_error(where: str, value: object, fix: str) -> UserError:
  """Builds the one-line error ``where = value: fix``.

  Args:
    where: the config field (``config.train.rows``) or the file at fault.
    value: the current value; None leaves it out of the message.
    fix: how to correct it, as an imperative.
  """
  shown = '' if value is None else f' = {value!r}'
  return UserError(f'{where}{shown}: {fix}')
