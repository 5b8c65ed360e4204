"""``jaxgen convert export`` and ``import``: runs to PyTorch folders, and folders to weights."""

import dataclasses
import json
import re
import sys
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from etils import epath

from jaxgen.conversion import families
from jaxgen.conversion import lora_files
from jaxgen.conversion import lora_names
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.external import External
from jaxgen.conversion.external import open_all
from jaxgen.conversion.external import open_external
from jaxgen.conversion.external import parts_of
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Layout
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.locate import locate
from jaxgen.conversion.lora import Adapter
from jaxgen.conversion.lora import from_theirs
from jaxgen.conversion.lora import linear_modules
from jaxgen.conversion.lora import to_theirs
from jaxgen.conversion.pretrained import read_params
from jaxgen.core import formats
from jaxgen.core import trees
from jaxgen.checkpoints import weights as weights_on_disk
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_new
from jaxgen.core.files import check_place
from jaxgen.core.types import Params
from jaxgen.models import registry
from jaxgen.models.layers import lora as layers_lora

# Parameter group -> folder of the export.
FOLDERS = {'denoiser': 'denoiser', 'bridge': 'adapter', 'connector': 'connector', 'mllm': 'mllm',
           'text_encoder': 'text_encoder', 'text_encoder_2': 'text_encoder_2',
           'autoencoder': 'autoencoder'}
MERGE = 'merge'


def export(workdir: str, out: str, weights: str = 'ema', *, layout: str = '',
           lora: str = MERGE) -> dict[str, dict[str, Any]]:
  """Writes every model of a run that PyTorch libraries can hold.

  Args:
    workdir: a run's workdir or a weights folder.
    out: gets ``denoiser/`` (diffusers FluxTransformer2DModel), ``adapter/`` (safetensors),
      ``mllm/`` (transformers InternVL) and ``autoencoder/`` (diffusers AutoencoderKL).
    weights: ``ema`` (the plain parameters where the run keeps none) or ``params``.
    layout: ``original`` names the tensors as the original releases do, in the families that have
      such names; '' is the names of the classes.
    lora: ``merge`` adds adapters to their kernels. ``peft``, ``diffusers`` and ``comfyui`` write
      the adapters in place of their model: ``denoiser_lora/`` or ``denoiser_lora.safetensors``.

  Returns:
    ``{folder name: {path, class, parameters}}``. A group that the run does not hold, or whose
    family has no parameters, is left out.

  Raises:
    UserError: no weights, weights that do not fit their config, a size that the other class
      does not know, no adapters where they are asked for, or a folder that is not empty; all of it
      before anything is written.
  """
  check_place(out)
  models, run = models_of(workdir)
  params, _ = weights_on_disk.load_weights(workdir, sorted(models), weights)
  models = {group: model for group, model in models.items() if trees.flatten(params[group])}
  _check_layout(models, layout)
  naming = layout or ('' if lora == MERGE else lora_files.STYLES[lora].layout)
  low: dict[str, dict[str, Adapter]] = {}
  for group, model in models.items():
    shapes = registry.param_shapes(registry.build(model.section, jnp.float32))
    base, adapters = layers_lora.split(params[group])
    weights_on_disk.check_fit({group: base}, {group: shapes}, workdir)
    if adapters and lora != MERGE:
      _check_alone(run, {group: params[group]}, lora)
      low[group] = to_theirs(model.layout(naming).rules, shapes, adapters)
  configs = {group: model.config(naming if group in low else layout)
             for group, model in models.items()}
  if lora != MERGE and not low:
    raise user_error('--lora', lora, f'{workdir} has no adapters; leave it out')
  paths = {group: str(epath.Path(out) / FOLDERS[group]) for group in models}
  paths |= {group: lora_files.target(f'{paths[group]}_lora', lora) for group in low}
  for path in paths.values():
    check_new(path)
  written = {}
  for group, model in models.items():
    path, kind = paths[group], model.family.marker[1]
    if group in low:
      lora_files.save(path, low[group], lora, base=run['init_from'][group])
      kind, held = f'adapters of {kind}', layers_lora.split(params[group])[1]
    else:
      held = layers_lora.merge(params[group])
      save_folder(path, configs[group], to_torch(model.layout(layout).rules, held),
                  stem=model.family.stem)
    written[epath.Path(path).name] = {
        'path': path, 'class': kind,
        'parameters': sum(leaf.size for leaf in trees.flatten(held).values())}
  return written


def import_(path: str, out: str, base: str = '') -> dict[str, dict[str, Any]]:
  """Reads a PyTorch model, or a folder of them, as weights for ``config.init_from``.

  Args:
    path: a model as ``load_pretrained`` takes it, or a folder whose subfolders are such; or
      adapters of one, as ``export`` writes them.
    out: gets the weights folder; its config.json holds the ``model`` sections that fit.
    base: the model of adapters, as ``load_pretrained`` takes it or a folder of jaxgen; '' is the
      one that PEFT's config names.

  Returns:
    ``{group: section}``.

  Raises:
    UserError: no such folder, an unknown class, tensors that do not fit the class's config, or a
      folder that cannot be written; the last is checked first.
  """
  check_new(out)
  found = locate(path)
  if adapters := lora_files.find(found):
    config, params = _adapted(adapters, base, path)
  else:
    config, params = _models_in(found)
  weights_on_disk.save_weights(out, params, json.dumps(
      {formats.KEY: formats.RUN} | config, indent=2))
  return config['model']


def _models_in(path: str) -> tuple[dict[str, Any], Params]:
  """Config and parameters of the model, or models, of a folder."""
  folders = _model_folders(path)
  models: dict[str, External] = {}
  for folder in folders:
    for model in _opened(folder, folders):
      group = registry.FAMILIES[model.family.name].group
      if group in models:
        raise user_error(str(path), None, f'holds two models of the group {group!r}; import one '
                         'of the subfolders')
      models[group] = model
  params = {group: read_params(model) for group, model in models.items()}
  return {'model': {group: model.section for group, model in models.items()}}, params


def _opened(folder: str, folders: list[str]) -> list[External]:
  """The models of one of the folders; an error of one of several names the others."""
  try:
    return open_all(folder)
  except UserError as error:
    others = ', '.join(other for other in folders if other != folder)
    raise UserError(f'{error}; or import another part of the pipeline alone: {others}'
                    if others else str(error)) from error


def _adapted(found: lora_files.Found, base: str, path: str) -> tuple[dict[str, Any], Params]:
  """Config and parameters of the base model with adapters, as a run has them that trains these."""
  base = base or found.base
  if not base:
    raise user_error(path, None, 'holds adapters and does not say of which model; give --base')
  if weights_on_disk.is_weights(base):
    models, external = models_of(base)[0], None
  else:
    external = open_external(base)
    models = {registry.FAMILIES[external.family.name].group:
              Model(external.section, external.family)}
  shapes = {group: families.shapes_of(model.section) for group, model in models.items()}
  group, linear, adapters = adapters_of(found, models, shapes, path)
  params = (read_params(external) if external else
            layers_lora.merge(weights_on_disk.load_weights(base, [group])[0][group]))
  print(f'{path}: adapters of {len(found.adapters)} of the {len(linear)} linear modules '
        f'of {base}; alpha from {found.strength}', file=sys.stderr, flush=True)
  config = {'model': {group: models[group].section}, 'init_from': {group: base},
            'trainable': [(layers_lora.TRAINABLE, True), ('.*', False)]}
  return config, {group: trees.merge(params, adapters)}


def adapters_of(found: lora_files.Found, models: 'Mapping[str, Model | External]',
                shapes: Mapping[str, Params], path: str) -> tuple[str, Collection[str], Params]:
  """Adapters for the model that the most of them fit.

  Args:
    found: of a file.
    models, shapes: by group.
    path: of the file, for errors.

  Returns:
    ``(group, its linear modules, adapters as its tree)``.

  Raises:
    UserError: adapters that do not fit it.
  """
  choices = [(group, layout.rules) for group, model in models.items()
             for layout in model.family.layouts]
  group, rules = max(choices, key=lambda choice: len(lora_names.resolve(
      found.adapters, linear_modules(choice[1], shapes[choice[0]]))))
  linear = linear_modules(rules, shapes[group])
  return group, linear, from_theirs(rules, shapes[group], found.of(linear), where=path)


@dataclasses.dataclass(frozen=True)
class Model:
  """One exportable model of a run: its section, complete, and their class."""

  section: dict[str, Any]
  family: Family

  def layout(self, name: str) -> Layout:
    """A layout, or the class's own where the family lacks it."""
    known = {other.name: other for other in self.family.layouts}
    return known.get(name, self.family.layouts[0])

  def config(self, layout: str) -> dict[str, Any]:
    """config.json of the export in a layout."""
    return self.family.write_config(self.section, self.layout(layout))


def models_of(workdir: str) -> tuple[dict[str, Model], dict[str, Any]]:
  """The models of a run, by group, that have a table; and the run's config."""
  config = json.loads(weights_on_disk.read_config(workdir))
  models = {}
  for group in FOLDERS:
    values = config.get('model', {}).get(group)
    if values and values['family'] in families.TABLES:
      section = registry.section(**values)
      models[group] = Model(section, families.TABLES[section['family']])
  if not models:
    raise user_error(str(workdir), None, 'its config.json names no model that PyTorch can hold; '
                     'give a workdir of jaxgen')
  return models, config


def _check_layout(models: dict[str, Model], layout: str) -> None:
  """Raises the error for a layout that no model has."""
  known = {group: [other.name for other in model.family.layouts]
           for group, model in models.items()}
  if layout and not any(layout in names for names in known.values()):
    raise user_error('--layout', layout, f'no model of this run has it; known: {known}')


def _check_alone(run: dict[str, Any], params: Params, lora: str) -> None:
  """Raises the error for a model of which more than its adapters has trained."""
  for path in trees.flatten(params):
    rule = next((rule for rule in run['trainable'] if re.fullmatch(rule[0], path)), None)
    if rule and rule[1] and not layers_lora.is_adapter(path):
      raise user_error('--lora', lora, f'{path} has trained too and is no adapter; merge instead')


def _model_folders(path: str) -> list[str]:
  """The path itself, or its subfolders where these are the models."""
  root = epath.Path(path)
  if not root.is_dir() or (root / 'config.json').exists():
    return [str(path)]
  models = []
  for folder in map(str, parts_of(root)):
    if lora_files.find(folder):
      print(f'{folder}: holds adapters, which are left out; import them with --base',
            file=sys.stderr, flush=True)
    else:
      models.append(folder)
  return models or [str(path)]
