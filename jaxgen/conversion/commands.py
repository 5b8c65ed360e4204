"""``jaxgen convert export`` and ``import``: runs to PyTorch folders, and folders to weights."""

import dataclasses
import json
import math
from typing import Any

import jax.numpy as jnp
from etils import epath

from jaxgen.conversion import families
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.external import open_external
from jaxgen.conversion.family import Family
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.pretrained import read_params
from jaxgen.core import trees
from jaxgen.core import weights as weights_on_disk
from jaxgen.core.errors import user_error
from jaxgen.models import registry

# Parameter group -> folder of the export.
FOLDERS = {'denoiser': 'denoiser', 'bridge': 'adapter', 'connector': 'connector', 'mllm': 'mllm',
           'text_encoder': 'text_encoder', 'text_encoder_2': 'text_encoder_2',
           'autoencoder': 'autoencoder'}


def export(workdir: str, out: str, weights: str = 'ema', *, layout: str = ''
           ) -> dict[str, dict[str, Any]]:
  """Writes every model of a run that PyTorch libraries can hold.

  Args:
    workdir: a run's workdir or a weights folder.
    out: gets ``denoiser/`` (diffusers FluxTransformer2DModel), ``adapter/`` (safetensors),
      ``mllm/`` (transformers InternVL) and ``autoencoder/`` (diffusers AutoencoderKL).
    weights: ``ema`` (the plain parameters where the run keeps none) or ``params``.
    layout: ``original`` names the tensors as the original releases do, in the families that have
      such names; '' is the names of the classes.

  Returns:
    ``{folder name: {path, class, parameters}}``. A group that the run does not hold, or whose
    family has no parameters, is left out.

  Raises:
    UserError: no weights, weights that do not fit their config, or a size that the other class
      does not know; all of it before anything is written.
  """
  models = _models(workdir)
  params, _ = weights_on_disk.load_weights(workdir, sorted(models), weights)
  models = {group: model for group, model in models.items() if trees.flatten(params[group])}
  rules = _rules(models, layout)
  for group, model in models.items():
    shapes = registry.param_shapes(registry.build(model.section, jnp.float32))
    weights_on_disk.check_fit({group: params[group]}, {group: shapes}, workdir)
  written = {}
  for group, model in models.items():
    folder = epath.Path(out) / FOLDERS[group]
    save_folder(str(folder), model.config, to_torch(rules[group], params[group]),
                stem=model.family.stem)
    written[FOLDERS[group]] = {
        'path': str(folder), 'class': model.family.marker[1],
        'parameters': sum(math.prod(leaf.shape) for leaf in trees.flatten(params[group]).values()),
    }
  return written


def import_(path: str, out: str) -> dict[str, dict[str, Any]]:
  """Reads a PyTorch model folder, or a folder of them, as weights for ``config.init_from``.

  Args:
    path: a model as ``load_pretrained`` takes it, or a folder whose subfolders are such.
    out: gets the weights folder; its config.json holds the ``model`` sections that fit.

  Returns:
    ``{group: section}``.

  Raises:
    UserError: no such folder, an unknown class, or tensors that do not fit the class's config.
  """
  sections, params = {}, {}
  for folder in _model_folders(path):
    model = open_external(folder)
    group = registry.FAMILIES[model.family.name].group
    if group in sections:
      raise user_error(str(path), None, f'holds two models of the group {group!r}; import one of '
                       'the subfolders')
    params[group], sections[group] = read_params(model), model.section
  weights_on_disk.save_weights(out, params, json.dumps({'model': sections}, indent=2))
  return sections


@dataclasses.dataclass(frozen=True)
class _Model:
  """One exportable model of a run: its section, complete, and what theirs will say."""

  section: dict[str, Any]
  family: Family
  config: dict[str, Any]


def _models(workdir: str) -> dict[str, _Model]:
  """The models of a run, by group, that have a table."""
  config = json.loads(weights_on_disk.read_config(workdir))
  models = {}
  for group in FOLDERS:
    values = config.get('model', {}).get(group)
    if values and values['family'] in families.TABLES:
      section = registry.section(**values)
      family = families.TABLES[section['family']]
      models[group] = _Model(section, family, family.write_config(section))
  if not models:
    raise user_error(str(workdir), None, 'its config.json names no model that PyTorch can hold; '
                     'give a workdir of jaxgen')
  return models


def _rules(models: dict[str, _Model], layout: str) -> dict[str, Rules]:
  """The name table of every model: in the layout that is asked for, or the class's own."""
  known = {group: [other.name for other in model.family.layouts]
           for group, model in models.items()}
  if layout and not any(layout in names for names in known.values()):
    raise user_error('--layout', layout, f'no model of this run has it; known: {known}')
  return {group: model.family.layout(layout if layout in known[group] else '').rules
          for group, model in models.items()}


def _model_folders(path: str) -> list[str]:
  """The path itself, or its subfolders where these are the models."""
  root = epath.Path(path)
  if not root.is_dir() or (root / 'config.json').exists():
    return [str(path)]
  inner = sorted(str(folder) for folder in root.iterdir() if (folder / 'config.json').exists())
  return inner or [str(path)]
