"""Lists of plain dicts that were written with ``torch.save``, read without running what they say.

A pickle is a program that may call anything. This reader refuses every name that a pickle asks
for, except the containers that plain data needs, so nothing of the file is ever run.
"""

import collections
import io
import pickle
import zipfile
from typing import Any

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data.sources.tables import Listed

_ALLOWED = {('builtins', 'set'): set, ('builtins', 'frozenset'): frozenset,
            ('__builtin__', 'set'): set, ('collections', 'OrderedDict'): collections.OrderedDict}
# torch.save before version 1.6 wrote these pickles in front: a magic number, a protocol version,
# facts about the machine.
_LEGACY_MAGIC = 0x1950a86a20f9469cfc6c


class _Refused(Exception):
  """The pickle asks for something else than plain data."""


class _Plain(pickle.Unpickler):

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _ALLOWED:
      raise _Refused(f'it asks for {module}.{name}')
    return _ALLOWED[module, name]

  def persistent_load(self, pid: Any) -> Any:
    raise _Refused('it holds tensors')


def read_pickle(path: epath.Path) -> Listed:
  """The rows of a pickled list of dicts.

  Raises:
    UserError: it holds, or asks for, anything but lists, dicts, strings and numbers.
  """
  data = path.read_bytes()
  try:
    rows = _load(data)
  except _Refused as error:
    raise user_error(str(path), None, f'refused: the pickle holds more than plain lists, dicts, '
                     f'strings and numbers ({error}), and reading it could run foreign code; '
                     'convert it to JSON Lines where you trust it') from None
  # A damaged pickle fails with nearly every built-in error, depending on the place.
  except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, IndexError, KeyError,
          TypeError, AttributeError, OverflowError) as error:
    raise user_error(str(path), None, f'is no pickle, or damaged ({type(error).__name__}); '
                     'download it again') from None
  if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
    raise user_error(str(path), None, 'must hold a list of dicts')
  return Listed(path, rows)


def _load(data: bytes) -> Any:
  if zipfile.is_zipfile(io.BytesIO(data)):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      inner = [name for name in archive.namelist() if name.endswith('data.pkl')]
      if not inner:
        raise pickle.UnpicklingError('no data.pkl')
      data = archive.read(inner[0])
  elif data.startswith(b'PK'):
    # Read as a pickle it would ask for a tensor, by the letter P, and the error would name that.
    raise zipfile.BadZipFile('cut short')
  file = io.BytesIO(data)
  value = _Plain(file).load()
  if value == _LEGACY_MAGIC:
    _Plain(file).load(), _Plain(file).load()
    value = _Plain(file).load()
  return value
