"""``jaxgen convert export --pipeline``: a run as a whole pipeline that diffusers opens.

What was trained is written from the run. Everything else is that of the pipeline which the run
began with: other models, tokenizers, the scheduler and the index.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxgen.conversion import families
from jaxgen.conversion.commands import Model
from jaxgen.conversion.commands import models_of
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.locate import INDEX
from jaxgen.conversion.locate import locate
from jaxgen.conversion.locate import locate_pipeline
from jaxgen.conversion.pipelines import is_pipeline
from jaxgen.conversion.pipelines import kind_of
from jaxgen.conversion.tables.pipelines import Kind
from jaxgen.conversion.weight_files import ENDINGS
from jaxgen.conversion.weight_files import read_json
from jaxgen.checkpoints.weights import open_weights
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_new
from jaxgen.core.files import in_bucket
from jaxgen.core.files import new_folder
from jaxgen.core.types import Params
from jaxgen.models.layers import lora as layers_lora

UNCHANGED = ('copy', 'link')


def export_pipeline(workdir: str, out: str, weights: str = 'ema', *, base: str = '',
                    unchanged: str = 'copy') -> list[str]:
  """Writes a run as a folder for ``DiffusionPipeline.from_pretrained``, adapters merged.

  Args:
    workdir: of the run, or a weights folder.
    out: the local folder to write.
    weights: as for ``commands.export``.
    base: the pipeline that the rest comes from, as ``open_pipeline`` takes it; '' is the one whose
      components ``config.init_from`` names.
    unchanged: ``copy`` the weights of models that were not trained, or ``link`` to them.

  Returns:
    A line for each component.

  Raises:
    UserError: no such run, no pipeline that it began with, one of another system, or a folder that
      cannot be written.
  """
  assert unchanged in UNCHANGED, unchanged
  if in_bucket(out):
    raise user_error('--out', out, 'a pipeline is written to a local folder; copy it from there')
  check_new(out)
  models, run = models_of(workdir)
  folder = epath.Path(locate_pipeline(base) if base else _base_of(run, workdir))
  kind = kind_of(str(folder))
  if kind.system != run['system']:
    raise user_error('--base', str(folder), f'is a {kind.name}, but {workdir} is a run of the '
                     f'system {run["system"]}; name the pipeline that it began with')
  if in_bucket(folder) and unchanged == 'link':
    raise user_error('--unchanged', unchanged, f'{folder} is in a bucket; copy')
  changed = {kind.models[group]: (models[group], params)
             for group, params in _changed(run, workdir, weights, folder, kind).items()}
  index, lines = read_json(folder / INDEX), []
  with new_folder(out, last=INDEX) as partial:
    for name, entry in index.items():
      if not isinstance(entry, list) or entry[0] is None:
        continue
      if name in changed:
        model, params = changed[name]
        count = _write(partial / name, _as_class(model, entry[1]), params)
        lines.append(f'{name}: written from {workdir}, {count:,} parameters')
      else:
        links = _take(folder / name, partial / name, unchanged == 'link')
        lines.append(f'{name}: {"linked to" if links else "copied from"} {folder / name}')
    (folder / INDEX).copy(partial / INDEX)
  return lines


def _base_of(run: Mapping[str, Any], workdir: str) -> str:
  """The pipeline of which a run's ``init_from`` names components."""
  for path in run['init_from'].values():
    if isinstance(path, str) and path and is_pipeline(parent := str(epath.Path(path).parent)):
      return parent
  raise user_error('--pipeline', None, f'config.init_from of {workdir} names no component of a '
                   'pipeline; name the pipeline by --base')


def _changed(run: Mapping[str, Any], workdir: str, weights: str, folder: epath.Path, kind: Kind
             ) -> dict[str, Params]:
  """The parameters of the groups that are not those of the pipeline: trained ones, and those that
  began elsewhere."""
  stored = open_weights(workdir, sorted(kind.models), weights)
  changed = {}
  for group, component in kind.models.items():
    leaves = trees.flatten(stored[group]).values()
    start = run['init_from'].get(group)
    same = start and epath.Path(locate(start)).resolve() == (folder / component).resolve()
    if not same or any(leaf.store.name != 'frozen' for leaf in leaves):
      changed[group] = stored[group]
  return changed


def _as_class(model: Model, name: str) -> Model:
  """The model as a class of diffusers, where that shares the tensors of the table's own."""
  family = families.family_of({'_class_name': name})
  same = family and family.name == model.family.name
  return dataclasses.replace(model, family=family) if same else model


def _write(place: epath.Path, model: Model, stored: Params) -> int:
  """Writes a component and returns the number of its parameters."""
  params = layers_lora.merge(jax.tree.map(np.asarray, stored))
  save_folder(str(place), model.config(''), to_torch(model.layout('').rules, params),
              stem=model.family.stem)
  return sum(leaf.size for leaf in trees.flatten(params).values())


def _take(source: epath.Path, target: epath.Path, link: bool) -> bool:
  """Copies a component; weights are linked to instead if asked for. Returns whether any were."""
  target.mkdir(parents=True)
  linked = False
  for file in sorted(source.iterdir()):
    if file.is_dir():
      linked |= _take(file, target / file.name, link)
    elif link and file.suffix in ENDINGS:
      os.symlink(os.path.realpath(file), target / file.name)
      linked = True
    elif in_bucket(source):
      file.copy(target / file.name)
    else:
      shutil.copyfile(file, target / file.name)  # what a link of the hub's cache leads to
  return linked
