"""The workdir of a run: writes its config, and checks that it belongs to this run."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import from_json
from jaxgen.config import to_json
from jaxgen.checkpoints.weights import read_config
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.data import kept_tokenizers
from jaxgen.models import registry as models
from jaxgen.sharding.hosts import Hosts
from jaxgen.training.optimizer import make_schedule

RECORDS = 'records.json'
# Fields that a resumed run may change: they say how it goes on, and what was learned stays right.
# Whatever a message advises to change in a run that stopped is among them. Of tokenizers the
# contents are compared, not the paths.
MAY_DIFFER = ('train/steps', 'train/log_every', 'train/checkpoint_every', 'train/keep',
              'train/halt_after', 'train/wandb', 'train/accumulate', 'train/zero',
              'train/host_timeout', 'optimizer/memory', 'optimizer/learning_rate', 'mesh/',
              'data/threads', 'data/prefetch', 'data/cache', 'data/states', 'data/image_tokens',
              'data/max_bad_share', 'data/max_references', 'data/oversize',
              'data/prompt_tokens', 'data/visual_tokens', 'data/patches', 'data/tokenizer',
              'data/tower_tokenizers', 'sampling/', 'validation/')
# What becomes of these is said by ``operations.elastic``.
_OF_TOPOLOGY = ('mesh/data', 'mesh/fsdp', 'mesh/context', 'mesh/tensor', 'train/accumulate')


def claim(config: ConfigDict, workdir: str, hosts: Hosts) -> tuple[epath.Path, ConfigDict | None]:
  """Creates the workdir, or checks that it belongs to this config; writes ``config.json``.

  The tokenizers of the config are copied there too, see ``kept_tokenizers``.

  Returns:
    ``(workdir, config of the previous start or None for a new run)``.

  Raises:
    UserError: the workdir belongs to another config (names the first field that differs), its
      config.json is damaged, it cannot be written, or some host did not arrive in time.
  """
  path = epath.Path(workdir)
  file = path / 'config.json'
  before = from_json(read_config(workdir)) if file.exists() else None
  if before:
    _check_same(config, before, workdir)
  if hosts.index == 0:
    kept_tokenizers.keep(config, before, path)
    write_text(file, to_json(config))
  hosts.barrier('workdir')
  return path, before


def changes(before: ConfigDict | None, now: ConfigDict, step: int) -> str:
  """Names the fields that differ from the previous start, without those of the topology; an empty
  string if none does.

  Learning rate and data shares are schedules over all steps, so they may jump at ``step`` where
  ``train.steps`` has changed.
  """
  if before is None:
    return ''
  fields = sorted(_differing(before, now).items(), key=lambda item: item[0] == 'train/steps')
  text = ''.join(f'; {field.replace("/", ".")} {old} -> {new}' for field, (old, new) in fields
                 if field not in _OF_TOPOLOGY)
  if before.train.steps == now.train.steps:
    return text
  old, new = (float(make_schedule(config)(step)) for config in (before, now))
  if old != new:
    text += f', which the schedule follows: learning rate {old:.3g} -> {new:.3g}'
  return text


def record_changes(workdir: epath.Path, now: Mapping[str, int], hosts: Hosts) -> str:
  """Describes sources whose number of records is another than at the previous start.

  The order of a source follows from its number of records. ``records.json`` keeps them.

  Args:
    workdir: of the run.
    now: number of records of each source.
    hosts: of the run; all of them must call this.
  """
  file = workdir / RECORDS
  before = read_json(file, 'remove it') if file.exists() else {}
  hosts.barrier('records')
  if hosts.index == 0:
    write_text(file, json.dumps(now, indent=2))
  changed = [f'{name} {before[name]} -> {count}' for name, count in now.items()
             if before.get(name, count) != count]
  return changed and (f'; records of {", ".join(changed)}; these are in another order from here '
                      'on: of the current epoch some may come twice, and others not') or ''


def _check_same(config: ConfigDict, old: ConfigDict, workdir: str) -> None:
  for field, (before, now) in _differing(old, config).items():
    if not field.startswith(MAY_DIFFER):
      raise user_error(f'config.{field.replace("/", ".")}', now, f'{workdir} is a run with '
                       f'{before!r} there; restore the value or take another --workdir')


def _differing(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Sorted fields, section/name, whose values differ -> both values; None where absent."""
  before, now = (trees.flatten(json.loads(to_json(_completed(each)))) for each in (old, new))
  return {field: (before.get(field), now.get(field))
          for field in sorted(before.keys() | now.keys())
          if before.get(field) != now.get(field)}


def _completed(config: ConfigDict) -> ConfigDict:
  """A copy with all model fields; fields added since the run began get their defaults."""
  config = ConfigDict(config.to_dict())
  for name, section in config.model.items():
    if isinstance(section, ConfigDict) and 'family' in section:
      config.model[name] = ConfigDict(models.section(**section.to_dict()))
  return config
