"""The tokenizers of a run, kept in its workdir, so that it needs no other folder to go on.

``tokenizer/`` is that of ``config.data.tokenizer``, ``tokenizer_<group>/`` those of
``config.data.tower_tokenizers``. Transformers reads these folders too.
"""

import copy
from collections.abc import Iterator

from etils import epath
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.data.tokenizer import copy_tokenizer
from jaxgen.data.tokenizer import has_tokenizer
from jaxgen.data.tokenizer import identity


def keep(config: ConfigDict, before: ConfigDict | None, workdir: epath.Path) -> None:
  """Copies the tokenizers of a config into the workdir, or compares them with those kept there.

  A path that is as ``before`` and has nothing now is not looked for elsewhere: the kept one counts.

  Args:
    config: of this start.
    before: of the previous start; None for a new run.
    workdir: of the run; one process writes there.

  Raises:
    UserError: no tokenizer there, or one that does not give the ids that the run was started with.
  """
  then = {name: path for name, _, path in _named(before)} if before else {}
  for name, field, path in _named(config):
    folder = workdir / name
    if not has_tokenizer(folder):
      copy_tokenizer(path, folder, field)
    elif epath.Path(path).exists() or then.get(name) != path:
      if identity(path, field) != identity(str(folder), field):
        raise user_error(field, path, f'gives other tokens than the tokenizer that the run was '
                         f'started with, {folder}; name that one, or take another --workdir')


def with_kept(config: ConfigDict, workdir: epath.PathLike) -> ConfigDict:
  """A copy of the config that names the kept tokenizers, where there are any."""
  config = copy.deepcopy(config)
  with config.unlocked():
    for name, field, _ in list(_named(config)):
      folder = epath.Path(workdir) / name
      if has_tokenizer(folder):
        *_, last = field.split('.')
        section = config.data if name == 'tokenizer' else config.data.tower_tokenizers
        section[last] = str(folder)
  return config


def _named(config: ConfigDict) -> Iterator[tuple[str, str, str]]:
  """Folder in the workdir, field and path of each tokenizer."""
  if config.data.tokenizer:
    yield 'tokenizer', 'config.data.tokenizer', config.data.tokenizer
  for group, path in sorted(config.data.tower_tokenizers.items()):
    yield f'tokenizer_{group}', f'config.data.tower_tokenizers.{group}', path
