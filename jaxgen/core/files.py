"""Files and folders that are written whole or not at all, and JSON whose damage is named."""

import contextlib
import errno
import json
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error

AT_ONCE = 16  # files to ask for at one time, where each may be in a bucket and take a while
OTHER_PLACE = 'free space, or choose another place'
# Folders that runs and data stand in; nobody's name on the hub is taken to be meant by them.
_FOLDERS = ('runs', 'out', 'outputs', 'data', 'models', 'checkpoints', 'tokenizers', 'weights')
# TensorFlow, which etils prefers where it is installed, no longer knows S3, and never knew the hub.
_ADVICE = {'gs': 'pip install gcsfs', 's3': 'pip install s3fs, set EPATH_USE_TF=0',
           'hf': 'set EPATH_USE_TF=0', 'az': 'pip install adlfs, set EPATH_USE_TF=0'}
# What a library may say of a write that failed without keeping the number of the error.
_TEXTS = tuple(os.strerror(code) for code in (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO))


@contextlib.contextmanager
def writing(where: str, value: object = None, fix: str = OTHER_PLACE) -> Iterator[None]:
  """Turns a write that fails, however deep in a library, into one line.

  Args:
    where: the file, folder or flag that is written to.
    value: of the flag; None for a file or folder.
    fix: what to do about it.

  Raises:
    UserError: a full disk, no permission, a file in place of a folder.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = _reason(error)
    if not reason:
      raise
    raise user_error(where, value, f'could not be written ({reason}); {fix}') from error


def write_text(file: epath.PathLike, text: str) -> None:
  """As ``write_bytes``, in UTF-8."""
  write_bytes(file, text.encode())


def write_bytes(file: epath.PathLike, data: bytes) -> None:
  """Writes a file atomically, into a temporary file that then replaces it; makes its folder.

  Several threads and processes may write the same one: it is whole, by one of them. In a bucket,
  files appear when they are whole, and there are no folders to make.

  Raises:
    UserError: it could not be written; a file that was there before is as it was.
  """
  file = epath.Path(file)
  if in_bucket(file):
    with writing(str(file)):
      file.write_bytes(data)
    return
  fresh = file.parent / f'.{file.name}.{uuid.uuid4().hex[:8]}.new'
  with writing(str(file)):
    try:
      file.parent.mkdir(parents=True, exist_ok=True)
      fresh.write_bytes(data)
      fresh.replace(file)
    except OSError:
      with contextlib.suppress(OSError):
        fresh.unlink(missing_ok=True)
      raise


def append_line(file: epath.PathLike, text: str) -> None:
  """Adds a line to a text file; makes the file and its folder.

  What a killed process has left of its last line stays a line of its own, see ``read_lines``.

  Raises:
    UserError: it could not be written.
  """
  file = epath.Path(file)
  with writing(str(file)):
    file.parent.mkdir(parents=True, exist_ok=True)
    torn = False
    if file.exists() and file.stat().length:
      with file.open('rb') as stream:
        stream.seek(-1, os.SEEK_END)
        torn = stream.read(1) != b'\n'
    with file.open('a') as stream:
      stream.write(f'\n{text}\n' if torn else f'{text}\n')


@contextlib.contextmanager
def new_folder(folder: str, last: str = '') -> Iterator[epath.Path]:
  """A temporary folder beside ``folder`` that gets its name if all goes well, or vanishes.

  Args:
    folder: as ``check_new`` asks for it.
    last: where ``folder`` is in a bucket, which renames nothing: the file without which the others
      count for nothing. The temporary folder is then a local one, of files only.

  Raises:
    UserError: there is something already, or it could not be written.
  """
  check_new(folder)
  target = epath.Path(folder)
  copied = last and in_bucket(folder)
  with contextlib.ExitStack() as stack:
    stack.enter_context(writing(str(folder), fix='free space, or choose another --out'))
    if copied:
      partial = epath.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='jaxgen-')))
    else:
      partial = target.parent / f'{target.name}.partial-{uuid.uuid4().hex[:8]}'
      stack.callback(lambda: partial.exists() and partial.rmtree())
      partial.mkdir(parents=True)
    yield partial
    if copied:
      for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
        file.copy(target / file.name)
      return
    if target.exists():
      target.rmdir()
    partial.rename(target)


@contextlib.contextmanager
def placed(target: epath.Path) -> Iterator[epath.Path]:
  """A local path where a file, or a folder of files, is made that then becomes ``target``.

  What had that name is replaced, and if nothing is made, nothing is. In a bucket, which renames
  nothing, each file appears when it is whole: that all of a folder are there must be told by
  another one.

  Raises:
    UserError: it could not be written.
  """
  with contextlib.ExitStack() as stack:
    with writing(str(target)):
      if in_bucket(target):
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix='jaxgen-'))
        partial = epath.Path(root) / target.name
      else:
        partial = target.parent / f'.{target.name}.new'
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)  # of a process that was killed
    yield partial
    if not partial.exists():
      return
    with writing(str(target)):
      if in_bucket(target):
        for file in partial.iterdir() if partial.is_dir() else [partial]:
          file.copy(target / file.name if partial.is_dir() else target, overwrite=True)
      elif partial.is_dir():
        _remove(target)
        partial.rename(target)
      else:
        partial.replace(target)


def _remove(path: epath.Path) -> None:
  """Removes a file or folder, if there is one; ``rmtree`` of a file fails without TensorFlow."""
  if path.is_dir():
    path.rmtree()
  else:
    path.unlink(missing_ok=True)


def in_bucket(path: epath.PathLike) -> bool:
  """Whether a path is that of a bucket, ``gs://``, ``s3://`` or the like."""
  return '://' in str(path)


def there(path: str) -> bool:
  """Whether there is a file or folder, here or in a bucket.

  Raises:
    UserError: it is in a bucket that cannot be reached.
  """
  try:
    return epath.Path(path).exists()
  except Exception as error:  # each cloud has errors of its own, all of them the user's to mend
    scheme = path.partition('://')[0]
    advice = (f'{_ADVICE[scheme]} and check your access' if scheme in _ADVICE else
              f'buckets are {", ".join(f"{known}://" for known in _ADVICE)}')
    raise user_error(path, None, f'could not be reached ({one_line(error)}); {advice}') from error


def check_new(path: str) -> None:
  """Raises a ``UserError`` unless a folder or file can be made there and nothing would be lost."""
  target = epath.Path(path)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    kind = 'not empty' if target.is_dir() else 'exists'
    raise user_error(str(path), None, f'{kind}; choose another --out or remove it')
  check_place(target.parent)


def check_place(folder: epath.PathLike) -> None:
  """Raises a ``UserError`` if no file can be written in ``folder``, before the work for it starts.

  The folder need not exist yet. Buckets are not checked.
  """
  if in_bucket(folder):
    return
  place = epath.Path(os.path.abspath(folder))
  while not os.path.lexists(place):
    place = place.parent
  with writing(str(folder)):
    tempfile.TemporaryFile(dir=place).close()


def read_json(file: epath.PathLike, fix: str) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Args:
    file: the file.
    fix: what to do where it is damaged.

  Raises:
    UserError: it is missing, cut short or otherwise damaged.
  """
  try:
    value = json.loads(epath.Path(file).read_bytes())
  except (OSError, ValueError, RecursionError) as error:
    raise user_error(str(file), None, f'damaged ({one_line(error)}); {fix}') from error
  if not isinstance(value, dict):
    raise user_error(str(file), None, f'damaged (it holds no JSON object); {fix}')
  return value


def read_lines(file: epath.Path, needed: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Reads a JSON Lines file; a missing file has no lines.

  Lines that are damaged are left out, and their number is printed. The last one is not counted:
  a process that is killed leaves it behind.

  Args:
    file: the file.
    needed: names that each line must have, with the type of the value.
  """
  lines, damaged = [], 0
  texts = file.read_bytes().splitlines() if file.exists() else []
  for number, text in enumerate(texts, start=1):
    try:
      line = json.loads(text)
      whole = isinstance(line, dict) and all(
          isinstance(line.get(name), kind) and name in line for name, kind in needed.items())
    except (ValueError, RecursionError):
      whole = False
    if whole:
      lines.append(line)
    elif number < len(texts):
      damaged += 1
  if damaged:
    print(f'jaxgen: {file}: {damaged} damaged lines are left out', file=sys.stderr, flush=True)
  return lines


def is_hub_id(path: str) -> bool:
  """Whether ``path`` may be asked for on the Hugging Face hub, as owner/name.

  What looks like a path is not: a stranger's repository could answer for a folder that is missing.
  """
  owner, slash, name = path.partition('/')
  named = all(re.fullmatch(r'[A-Za-z0-9][\w.-]*', part) for part in (owner, name))
  return bool(slash) and named and owner not in _FOLDERS and not os.path.isdir(owner)


def one_line(error: BaseException, length: int = 160) -> str:
  """The text of an exception on one line, cut to ``length`` characters."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= length else f'{text[:length]}...'


def _reason(error: BaseException | None) -> str:
  """Why a write failed; an empty string if the error is of another kind."""
  while error is not None:
    if isinstance(error, FileExistsError | NotADirectoryError):
      return 'a file is in the place of a folder'
    if isinstance(error, OSError):
      return error.strerror or one_line(error)
    if found := next((text for text in _TEXTS if text in str(error)), ''):
      return found
    error = error.__cause__ or error.__context__
  return ''
