"""Adapters of a run as files for other programs, and such files on top of a published model."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from etils import epath

from jaxgen.checkpoints.weights import open_weights
from jaxgen.conversion import lora_files
from jaxgen.conversion.commands import adapters_of
from jaxgen.conversion.commands import models_of
from jaxgen.conversion.external import External
from jaxgen.conversion.locate import locate
from jaxgen.conversion.lora import to_theirs
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.models import registry
from jaxgen.models.layers import lora as layers_lora

DENOISER = 'denoiser'
# Style of ``lora_files`` -> file or folder; diffusers looks for this name in a folder.
NAMES = {'diffusers': 'pytorch_lora_weights.safetensors', 'comfyui': 'comfyui.safetensors',
         'peft': 'peft'}


def export_adapters(workdir: str, out: str, weights: str = 'ema', *, base: str = '') -> list[str]:
  """Writes the adapters of a run's denoiser, and nothing else, for every program that is known.

  Args:
    workdir: of the run.
    out: gets the files ``NAMES``; none of them may exist.
    weights: as for ``commands.export``.
    base: name of the base model, for PEFT's config.

  Returns:
    Their paths.

  Raises:
    UserError: no such run, no adapters in it, or files that cannot be written.
  """
  model = models_of(workdir)[0][DENOISER]
  _, stored = layers_lora.split(open_weights(workdir, [DENOISER], weights)[DENOISER])
  if not stored:
    raise user_error(workdir, None, 'has no adapters of its denoiser; export the model instead')
  adapters = jax.tree.map(np.asarray, stored)
  shapes = registry.param_shapes(registry.build(model.section, np.float32))
  paths = []
  for style, name in NAMES.items():
    rules = model.layout(lora_files.STYLES[style].layout).rules
    paths.append(str(epath.Path(out) / name))
    lora_files.save(paths[-1], to_theirs(rules, shapes, adapters), style, base=base)
  return paths


def opened(words: Sequence[str], models: Mapping[str, External]) -> Callable[[Params], Params]:
  """A function that adds adapters to the kernels of a published model.

  Args:
    words: ``FILE`` or ``FILE:WEIGHT``; a file of any program, or a folder of PEFT.
    models: the base model, group -> its model.

  Raises:
    UserError: no such file, no adapters in it, or adapters of another base.
  """
  shapes = {group: model.shapes for group, model in models.items()}
  added = []
  for word in words:
    path, weight = _weighted(word)
    found = lora_files.find(locate(path))
    if found is None:
      raise user_error('--lora', path, 'holds a model and no adapters; give it as --base')
    group, _, tree = adapters_of(found, models, shapes, path)
    added.append((group, trees.map_named(
        lambda name, leaf, weight=weight: leaf * weight if name.endswith('/alpha') else leaf,
        tree)))

  def add(params: Params) -> Params:
    for group, tree in added:
      params = params | {group: layers_lora.merge(trees.merge(params[group], tree))}
    return params

  return add


def _weighted(word: str) -> tuple[str, float]:
  """``FILE:WEIGHT``; the weight is 1 unless given."""
  path, colon, number = word.rpartition(':')
  try:
    return (path, float(number)) if colon else (word, 1.0)
  except ValueError:  # a colon of the path itself
    return word, 1.0
