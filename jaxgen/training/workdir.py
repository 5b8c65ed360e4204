"""The folder of a run: its config, whose it is, and what a full disk looks like."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import from_json
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.models import registry as models
from jaxgen.sharding.hosts import Hosts
from jaxgen.training.optimizer import make_schedule

# Fields that say how a run is carried out, not what it computes.
MAY_DIFFER = ('train/steps', 'train/log_every', 'train/checkpoint_every', 'train/keep',
              'train/halt_after', 'train/accumulate', 'train/zero', 'train/host_timeout',
              'optimizer/memory', 'mesh/', 'data/threads', 'data/prefetch', 'sampling/')
MARGIN = 4 << 20  # bytes of metadata that come with a checkpoint
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_TEXTS = tuple(os.strerror(code) for code in FULL)  # storage libraries pass on the text only


def claim(config: ConfigDict, workdir: str, hosts: Hosts) -> tuple[epath.Path, ConfigDict | None]:
  """Makes the folder of a run, or checks that it is this run's; writes ``config.json`` first.

  Returns:
    ``(the folder, the config that its run was last started with or None for a new one)``.

  Raises:
    UserError: the folder belongs to another config; names the first field that differs. Or some
      host did not come.
  """
  path = epath.Path(workdir)
  file = path / 'config.json'
  before = from_json(file.read_text()) if file.exists() else None
  if before:
    _check_same(config, before, workdir)
  if hosts.index == 0:
    path.mkdir(parents=True, exist_ok=True)
    write_text(file, to_json(config))
  hosts.barrier('workdir')
  return path, before


def changes(before: ConfigDict | None, now: ConfigDict, step: int) -> str:
  """What another ``train.steps`` means for a run at ``step``, in words; empty where it is the same.

  Learning rate and shares of the data are spread over all steps, so they may jump.
  """
  if before is None or before.train.steps == now.train.steps:
    return ''
  text = f'; train.steps {before.train.steps} -> {now.train.steps}'
  old, new = (float(make_schedule(config)(step)) for config in (before, now))
  if old != new:
    text += f', which the schedule follows: learning rate {old:.3g} -> {new:.3g}'
  return text


def write_text(file: epath.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  fresh = file.parent / f'.{file.name}.new'
  fresh.write_text(text)
  fresh.replace(file)


def read_lines(file: epath.Path) -> list[dict[str, Any]]:
  """The lines of a JSON Lines file, none where it does not exist; of a line that was not written
  to its end nothing is kept."""
  lines = []
  for line in file.read_text().splitlines() if file.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      lines.append(json.loads(line))
  return lines


def reserve(folder: epath.Path, size: int) -> None:
  """Raises ``OSError`` now if ``size`` bytes more do not fit on the disk of a folder.

  A checkpoint is written by many threads; one that runs out of room in the middle buries the
  reason under their tracebacks and leaves a part of itself behind. Buckets are not checked.
  """
  if not os.path.isdir(folder):
    return
  with tempfile.TemporaryFile(dir=folder) as file:
    os.posix_fallocate(file.fileno(), 0, size + MARGIN)


@contextlib.contextmanager
def disk_errors(workdir: str) -> Iterator[None]:
  """Turns an error of a full disk, however deep it arose, into one line for the user."""
  try:
    yield
  except Exception as error:
    if not _is_full(error):
      raise
    raise user_error(str(workdir), None, 'no room left on the disk while saving; free some space '
                     '(or lower train.keep) and run the same command again: it resumes from the '
                     'last complete checkpoint') from error


def _is_full(error: BaseException | None) -> bool:
  while error is not None:
    if isinstance(error, OSError) and error.errno in FULL:
      return True
    if any(text in str(error) for text in FULL_TEXTS):
      return True
    error = error.__cause__ or error.__context__
  return False


def _check_same(config: ConfigDict, old: ConfigDict, workdir: str) -> None:
  before, now = (trees.flatten(json.loads(to_json(_completed(each)))) for each in (old, config))
  for field in sorted(before.keys() | now.keys()):
    if not field.startswith(MAY_DIFFER) and before.get(field) != now.get(field):
      raise user_error(f'config.{field.replace("/", ".")}', now.get(field), f'{workdir} is a run '
                       f'with {before.get(field)!r} there; restore the value or take another '
                       '--workdir')


def _completed(config: ConfigDict) -> ConfigDict:
  """A copy whose models have every field: one that came after the run began has its default."""
  config = ConfigDict(config.to_dict())
  for name, section in config.model.items():
    if isinstance(section, ConfigDict) and 'family' in section:
      config.model[name] = ConfigDict(models.section(**section.to_dict()))
  return config
