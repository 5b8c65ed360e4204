"""``jaxgen convert inspect``: what a model is and whether it fits, from its headers alone."""

import json
import math
from typing import Any


from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion.external import External
from jaxgen.conversion.external import open_external
from jaxgen.core.files import write_text
from jaxgen.core.mismatch import mismatches
from jaxgen.core.mismatch import shorten
from jaxgen.models import registry

KINDS = ('missing', 'unknown', 'misshapen')


def inspect(path: str) -> dict[str, Any]:
  """Describes a model without reading its weights.

  Args:
    path: as ``load_pretrained`` takes it.

  Returns:
    ``path``, ``family``, ``class``, ``layout``, ``group``, ``also`` (further families that it may
    be read as), ``section`` (for ``config.model``), ``parameters``, ``bytes``, ``dtypes`` (name ->
    numbers of that dtype), and the lists ``missing``, ``unknown`` and ``misshapen``, empty where
    the model would load.

  Raises:
    UserError: no such model, a class that is not known, or damaged files.
  """
  return described(open_external(path))


def described(model: External) -> dict[str, Any]:
  """``inspect`` of a model that is open."""
  wanted = engine.names_and_shapes(model.layout.rules, model.shapes)
  found = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
  dtypes: dict[str, int] = {}
  for tensor in model.tensors.values():
    dtypes[tensor.dtype.name] = dtypes.get(tensor.dtype.name, 0) + math.prod(tensor.shape)
  return {
      'path': model.path,
      'family': model.family.name,
      'class': model.family.marker[1],
      'layout': model.layout.name,
      'group': registry.FAMILIES[model.family.name].group,
      'also': [family.name for family in families.readings(dict([model.family.marker]))
               if family.name != model.family.name],
      'section': model.section,
      'parameters': sum(math.prod(shape) for shape in found.values()),
      'bytes': sum(math.prod(tensor.shape) * tensor.dtype.itemsize
                   for tensor in model.tensors.values()),
      'dtypes': dtypes,
      **mismatches(found, wanted),
  }


def lines(found: dict[str, Any]) -> list[str]:
  """The description as text; long lists of names are shortened."""
  dtypes = ', '.join(f'{name} ({count:,})' for name, count in found['dtypes'].items())
  faults = [f'{len(found[kind])} {kind}: {shorten(found[kind])}'
            for kind in KINDS if found[kind]]
  purpose = ('for features of images' if found['group'] == registry.TOWER else
             f'for config.model.{found["group"]}')
  also = ''.join(f', or as {name} for features of images' for name in found['also'])
  return [
      f'{found["path"]}: {found["class"]}, family {found["family"]}, {found["layout"]} names, '
      f'{purpose}{also}',
      f'{found["parameters"]:,} parameters, {found["bytes"] / 1e9:.2f} GB, {dtypes}',
      *(faults or ['every tensor fits']),
  ]


def write_json(found: dict[str, Any], file: str) -> None:
  """Writes the whole description.

  Raises:
    UserError: the file cannot be written.
  """
  write_text(file, json.dumps(found, indent=2) + '\n')
