"""Rubrics: the files that word a question to a judge, ours or those of a benchmark's authors.

A rubric is a text with ``{field}`` or ``<field>`` where a prompt or an instruction stands. Lines
``--- system ---``, ``--- user ---`` and ``--- assistant ---`` divide it into turns; without them it
is one turn of the user. Images follow the last turn of the user.
"""

import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.texts import decoded

OURS = pathlib.Path(__file__).parent / 'benchmarks' / 'rubrics'
_TURN = re.compile(r'^--- (system|user|assistant) ---$', re.MULTILINE)

Turn = tuple[str, str]  # role, text


class Rubric:
  """One rubric.

  Args:
    name: of its file, without ``.txt``.
    text: of the file.
  """

  def __init__(self, name: str, text: str):
    self.name = name
    self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    first, *rest = _TURN.split(text)
    turns = [('user', first), *zip(rest[::2], rest[1::2])]
    self._turns = [(role, own.strip()) for role, own in turns if own.strip()]

  def turns(self, fields: Mapping[str, str]) -> Sequence[Turn]:
    """Its turns with the fields in their places; the last one is of the user."""
    turns = [(role, _filled(text, fields)) for role, text in self._turns]
    return turns if turns and turns[-1][0] == 'user' else [*turns, ('user', '')]


def check_folder(folder: str) -> None:
  """Raises a ``UserError`` unless there is such a folder of rubrics."""
  if not epath.Path(folder).is_dir():
    raise user_error('--rubrics', folder, 'no such folder')


def read_rubric(name: str, folder: str = '') -> Rubric:
  """The rubric of that name from ``folder`` where it is there, else ours.

  Raises:
    UserError: there is no such folder.
  """
  if folder:
    check_folder(folder)
  own = epath.Path(folder) / f'{name}.txt' if folder else None
  file = own if own is not None and own.exists() else epath.Path(OURS) / f'{name}.txt'
  return Rubric(name, decoded(file.read_bytes(), str(file)))


def _filled(text: str, fields: Mapping[str, str]) -> str:
  """Braces of JSON that a rubric shows stay as they are."""
  if not fields:
    return text
  names = '|'.join(map(re.escape, fields))
  return re.sub(rf'\{{({names})\}}|<({names})>', lambda found: fields[found[1] or found[2]], text)
