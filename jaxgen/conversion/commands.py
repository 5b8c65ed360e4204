"""``jaxgen convert export`` and ``import``: runs to PyTorch folders, and folders to weights."""

import dataclasses
import json
import math
from typing import Any

import jax.numpy as jnp
from etils import epath

from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.family import Family
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.folders import read_config
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.tables import adapter
from jaxgen.conversion.tables import clip_text
from jaxgen.conversion.tables import connectors
from jaxgen.conversion.tables import cosmos
from jaxgen.conversion.tables import dc_ae
from jaxgen.conversion.tables import flux
from jaxgen.conversion.tables import hunyuan_video
from jaxgen.conversion.tables import hunyuan_video_vae
from jaxgen.conversion.tables import internvl
from jaxgen.conversion.tables import kl
from jaxgen.conversion.tables import llama
from jaxgen.conversion.tables import qwen2_5_vl
from jaxgen.conversion.tables import qwen3
from jaxgen.conversion.tables import qwen_image
from jaxgen.conversion.tables import sana
from jaxgen.conversion.tables import sd3
from jaxgen.conversion.tables import wan_vae
from jaxgen.conversion.tables import z_image
from jaxgen.core import trees
from jaxgen.core import weights as weights_on_disk
from jaxgen.core.errors import user_error
from jaxgen.models import registry

TABLES: dict[str, Family] = {
    table.FAMILY.name: table.FAMILY for table in (
        adapter, clip_text, cosmos, dc_ae, flux, hunyuan_video, hunyuan_video_vae, internvl, kl,
        llama, qwen2_5_vl, qwen3, qwen_image, sana, sd3, wan_vae, z_image)
} | {family.name: family for family in connectors.FAMILIES}
# Classes that import knows besides; their models are exported as the class of the table.
TWINS: tuple[Family, ...] = (wan_vae.QWEN_IMAGE,)

# Parameter group -> folder of the export.
FOLDERS = {'denoiser': 'denoiser', 'bridge': 'adapter', 'connector': 'connector', 'mllm': 'mllm',
           'text_encoder': 'text_encoder', 'text_encoder_2': 'text_encoder_2',
           'autoencoder': 'autoencoder'}


def export(workdir: str, out: str, weights: str = 'ema') -> dict[str, dict[str, Any]]:
  """Writes every model of a run that PyTorch libraries can hold.

  Args:
    workdir: a run's workdir or a weights folder.
    out: gets ``denoiser/`` (diffusers FluxTransformer2DModel), ``adapter/`` (safetensors),
      ``mllm/`` (transformers InternVL) and ``autoencoder/`` (diffusers AutoencoderKL).
    weights: ``ema`` (the plain parameters where the run keeps none) or ``params``.

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
  for group, model in models.items():
    shapes = registry.param_shapes(registry.build(model.section, jnp.float32))
    weights_on_disk.check_fit({group: params[group]}, {group: shapes}, workdir)
  written = {}
  for group, model in models.items():
    folder = epath.Path(out) / FOLDERS[group]
    save_folder(str(folder), model.config, to_torch(model.family.rules, params[group]),
                stem=model.family.stem)
    written[FOLDERS[group]] = {
        'path': str(folder), 'class': model.family.marker[1],
        'parameters': sum(math.prod(leaf.shape) for leaf in trees.flatten(params[group]).values()),
    }
  return written


def import_(path: str, out: str) -> dict[str, dict[str, Any]]:
  """Reads a PyTorch model folder, or a folder of them, as weights for ``config.init_from``.

  Args:
    path: a folder with config.json and safetensors, or one whose subfolders are such.
    out: gets the weights folder; its config.json holds the ``model`` sections that fit.

  Returns:
    ``{group: section}``.

  Raises:
    UserError: no such folder, an unknown class, or tensors that do not fit the class's config.
  """
  sections, params = {}, {}
  for folder in _model_folders(path):
    config = read_config(folder)
    family = _recognise(config, folder)
    config, tensors = load_folder(folder)
    where = str(epath.Path(folder) / 'config.json')
    section = registry.section(**family.read_config(config, tensors, where))
    group = registry.FAMILIES[family.name].group
    if group in sections:
      raise user_error(str(path), None, f'holds two models of the group {group!r}; import one of '
                       'the subfolders')
    shapes = registry.param_shapes(registry.build(section, jnp.float32))
    params[group] = from_torch(family.rules, tensors, shapes, where=folder)
    sections[group] = section
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
    if values and values['family'] in TABLES:
      section = registry.section(**values)
      family = TABLES[section['family']]
      models[group] = _Model(section, family, family.write_config(section))
  if not models:
    raise user_error(str(workdir), None, 'its config.json names no model that PyTorch can hold; '
                     'give a workdir of jaxgen')
  return models


def _model_folders(path: str) -> list[str]:
  """The folder itself, or its subfolders that are models."""
  root = epath.Path(path)
  if not root.is_dir():
    raise user_error(str(path), None, 'no such folder; give a folder with config.json')
  if (root / 'config.json').exists():
    return [str(root)]
  inner = sorted(str(folder) for folder in root.iterdir() if (folder / 'config.json').exists())
  if not inner:
    raise user_error(str(path), None, 'no config.json there, nor in a subfolder; give the folder '
                     'of a model')
  return inner


def _recognise(config: dict[str, Any], folder: str) -> Family:
  for family in (*TABLES.values(), *TWINS):
    key, value = family.marker
    if config.get(key) == value:
      return family
  shown = config.get('_class_name') or config.get('model_type')
  known = sorted(family.marker[1] for family in (*TABLES.values(), *TWINS))
  raise user_error(str(epath.Path(folder) / 'config.json'), shown,
                   f'not a model that jaxgen can read; known: {known}')
