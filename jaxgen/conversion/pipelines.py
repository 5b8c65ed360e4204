"""Whole pipelines of diffusers: ``model_index.json`` to a config, every component checked.

The config says where each group of parameters and each tokenizer lies, so it is all that sampling
and training need: ``init_from`` and ``data.tower_tokenizers`` name the components.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion.external import External
from jaxgen.conversion.external import open_external
from jaxgen.conversion.locate import INDEX
from jaxgen.conversion.locate import locate_pipeline
from jaxgen.conversion.streaming import dtype_of
from jaxgen.conversion.tables.pipelines import KINDS
from jaxgen.conversion.tables.pipelines import Kind
from jaxgen.conversion.weight_files import read_json
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.checkpoints.weights import is_weights
from jaxgen.models import registry

SCHEDULER = 'scheduler/scheduler_config.json'
MLLM = 'mllm'  # the group whose tokenizer is that of the whole prompt


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A published model, of which no weight is read yet.

  Attributes:
    folder: where it lies.
    kind: its class.
    models: group of parameters -> its component, opened.
    config: what draws as the pipeline does; its data have no sources.
  """

  folder: str
  kind: Kind
  models: Mapping[str, External]
  config: ConfigDict


def open_pipeline(path: str) -> Pipeline:
  """Opens a pipeline and checks that every tensor of its components is there and fits.

  Args:
    path: of a folder, here or in a bucket, or ``owner/name[@revision]`` on the Hugging Face hub.

  Raises:
    UserError: no pipeline there, a class that is not known, a component that is missing or of
      another class, tensors that do not fit, or a scheduler of another kind.
  """
  folder = locate_pipeline(path)
  kind = kind_of(folder)
  for component in (*kind.models.values(), *kind.tokenizers.values()):
    if not (epath.Path(folder) / component).is_dir():
      raise user_error(folder, None, f'lacks {component}/, a component of {kind.name}; copy the '
                       'whole folder')
  models = {group: _component(folder, kind, group) for group in kind.models}
  config = make_config(kind, {group: model.section for group, model in models.items()},
                       read_json(epath.Path(folder) / SCHEDULER), folder)
  dtype = 'float32' if _dtype(models['denoiser']) == np.float32 else 'bfloat16'
  config.model.update(compute_dtype=dtype, frozen_dtype=dtype)
  return Pipeline(folder, kind, models, config.lock())


def make_config(kind: Kind, sections: Mapping[str, Mapping[str, Any]],
                scheduler: Mapping[str, Any], folder: str) -> ConfigDict:
  """The config that draws as a pipeline does, and trains its denoiser; it names no sources of data.

  Args:
    kind: class of the pipeline.
    sections: group -> section of ``config.model``.
    scheduler: contents of ``SCHEDULER``.
    folder: where its components lie.
  """
  root, config = epath.Path(folder), base_config()
  config.system = kind.system
  for group, component in kind.models.items():
    config.model[group] = ConfigDict(sections[group])
    config.init_from[group] = str(root / component)
  for group, component in kind.tokenizers.items():
    if group == MLLM:
      config.data.tokenizer = str(root / component)
    else:
      config.data.tower_tokenizers[group] = str(root / component)
  config.trainable = (('denoiser/.*', True), ('.*', False))
  settings = dict(kind.settings(sections, scheduler))
  for word, fields in kind.variants.items():
    if word in folder.lower():
      settings |= fields
  config.update_from_flattened_dict(settings)
  return config


def config_of(path: str, kind: str, sections: Mapping[str, Mapping[str, Any]],
              scheduler: Mapping[str, Any], folder: str) -> ConfigDict:
  """The config of a pipeline, unlocked.

  Args:
    path: as for ``open_pipeline``; '' = none is opened, and the rest says what it would be.
    kind: name of its class.
    sections, scheduler, folder: as for ``make_config``.
  """
  if path:
    return open_pipeline(path).config.unlock()
  return make_config(KINDS[kind], sections, scheduler, folder)


def is_pipeline(path: str) -> bool:
  """Whether a local or bucket folder holds a pipeline."""
  return (epath.Path(path) / INDEX).exists()


def kind_of(folder: str) -> Kind:
  """The class of a pipeline.

  Raises:
    UserError: no pipeline there, or one that is not known.
  """
  known = ', '.join(KINDS)
  if not is_pipeline(folder):
    hint = ('it is a folder of jaxgen, which --workdir takes' if is_weights(folder) else
            f'give the folder of a whole pipeline: {known}')
    raise user_error(folder, None, f'has no {INDEX}; {hint}')
  name = read_json(epath.Path(folder) / INDEX).get('_class_name')
  if name not in KINDS:
    raise user_error(str(epath.Path(folder) / INDEX), name,
                     f'no pipeline that jaxgen can draw with; known: {known}')
  return KINDS[name]


def _component(folder: str, kind: Kind, group: str) -> External:
  """The model of a group, known to fit."""
  place = epath.Path(folder) / kind.models[group]
  model = open_external(str(place))
  if registry.FAMILIES[model.family.name].group != group:
    raise user_error(str(place), model.family.marker[1], f'is no {group} of a {kind.name}; use the '
                     'component that it was published with')
  model.fit()
  return model


def _dtype(model: External) -> np.dtype:
  """The dtype of the largest of a model's parameters."""
  shapes = trees.flatten(model.shapes)
  links = engine.places(model.layout.rules, model.shapes)
  largest = max(links, key=lambda link: shapes[link.path].size)
  return dtype_of([largest], model.tensors)


def describe(pipeline: Pipeline) -> list[str]:
  """What was found, a line for the pipeline and one for each component."""
  lines = [f'{pipeline.folder}: {pipeline.kind.name}, system {pipeline.kind.system}']
  for group, model in pipeline.models.items():
    sizes = {name: leaf.shape for name, leaf in trees.flatten(model.shapes).items()}
    lines.append(f'{pipeline.kind.models[group]}: {model.family.marker[1]}, {group}, '
                 f'{families.size_of(sizes) / 1e6:,.1f} M parameters in {_dtype(model).name}')
  return lines
