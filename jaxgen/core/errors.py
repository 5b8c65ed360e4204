"""Errors that users see: one line with the field or file, the value and the fix.

Everything that a user can cause raises a ``ValueError`` made here; the command line prints its
text alone and exits with 1. Anything else that escapes is a defect of ours and keeps its traceback.
"""


class UserError(ValueError):
  """A mistake that the user can mend; the message is complete without the traceback."""


def user_error(where: str, value: object, fix: str) -> UserError:
  """Builds the one line: ``where = value: fix``.

  Args:
    where: the config field (``config.train.rows``) or the file at fault.
    value: what stands there now; None where the place is all there is to say.
    fix: what to do about it, as an imperative.
  """
  shown = '' if value is None else f' = {value!r}'
  return UserError(f'{where}{shown}: {fix}')
