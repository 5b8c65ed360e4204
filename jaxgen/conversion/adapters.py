"""Adapters of a run as files for other programs, and such files on top of a model."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from etils import epath

from jaxgen.checkpoints.weights import open_weights
from jaxgen.conversion import families
from jaxgen.conversion import lora_files
from jaxgen.conversion.commands import Model
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
TOWER = 'peft_'  # begins the name of a text tower's folder, which its component ends


def export_adapters(workdir: str, out: str, weights: str = 'ema', *, base: str = '') -> list[str]:
  """Writes the adapters of a run, and nothing else, for every program that is known.

  Args:
    workdir: of the run.
    out: gets the files ``NAMES`` of the denoiser's adapters, and for each text tower that has some
      a folder of PEFT, ``TOWER`` and the component that it began with; none of them may exist.
    weights: as for ``commands.export``.
    base: name of the base model, for PEFT's config.

  Returns:
    Their paths.

  Raises:
    UserError: no such run, no adapters of its denoiser, or files that cannot be written.
  """
  models, run = models_of(workdir)
  found = {}
  for group, params in open_weights(workdir, sorted(models), weights).items():
    if stored := layers_lora.split(params)[1]:
      found[group] = jax.tree.map(np.asarray, stored)
  if DENOISER not in found:
    raise user_error(workdir, None, 'has no adapters of its denoiser; export the model instead')
  paths = []
  for group, adapters in found.items():
    model = models[group]
    shapes = registry.param_shapes(registry.build(model.section, np.float32))
    component = epath.Path(run['init_from'][group]).name or group
    names = NAMES if group == DENOISER else {'peft': f'{TOWER}{component}'}
    for style, name in names.items():
      rules = model.layout(lora_files.STYLES[style].layout).rules
      paths.append(str(epath.Path(out) / name))
      lora_files.save(paths[-1], to_theirs(rules, shapes, adapters), style, base=base)
  return paths


def opened(words: Sequence[str], models: Mapping[str, External | Model]
           ) -> Callable[[Params], Params]:
  """A function that adds adapters to the kernels of a model.

  Args:
    words: ``FILE`` or ``FILE:WEIGHT``; a file of any program, or a folder of PEFT.
    models: group -> its model: those of a published pipeline, or of a run.

  Returns:
    A function of parameters, which may have adapters of their own: these are merged first.

  Raises:
    UserError: no such file, no adapters in it, or adapters of another base.
  """
  shapes = {group: families.shapes_of(model.section) for group, model in models.items() if words}
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
      plain = layers_lora.merge(params[group])
      params = params | {group: layers_lora.merge(trees.merge(plain, tree))}
    return params

  return add


def on_run(words: Sequence[str], workdir: str) -> Callable[[Params], Params]:
  """``opened`` for the models of a run."""
  return opened(words, models_of(workdir)[0] if words else {})


def _weighted(word: str) -> tuple[str, float]:
  """``FILE:WEIGHT``; the weight is 1 unless given."""
  path, colon, number = word.rpartition(':')
  try:
    return (path, float(number)) if colon else (word, 1.0)
  except ValueError:  # a colon of the path itself
    return word, 1.0
