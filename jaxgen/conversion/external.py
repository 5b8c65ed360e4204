"""A model of another library: found, recognised and described, but not read."""

import dataclasses
import re
import sys
from typing import Any

from etils import epath

from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Layout
from jaxgen.conversion.folders import open_weights
from jaxgen.conversion.folders import read_config
from jaxgen.conversion.locate import locate
from jaxgen.conversion.stored import StoredTensor
from jaxgen.conversion.torch_files import TorchTensor
from jaxgen.conversion.weight_files import holds_weights
from jaxgen.conversion.weight_files import split_choice
from jaxgen.core.errors import user_error
from jaxgen.models import registry


# Modules that torch.compile, FSDP and activation checkpointing put around others.
_WRAPPERS = re.compile(r'(?<![^.])_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.')


@dataclasses.dataclass(frozen=True)
class External:
  """What is known of a model before its weights are read.

  Attributes:
    path: where it lies.
    section: the ``config.model`` section that describes it.
    family: its class.
    layout: how its tensors are named.
    shapes: of our parameters.
    tensors: theirs by name, without those that are no parameters.
  """

  path: str
  section: dict[str, Any]
  family: Family
  layout: Layout
  shapes: dict[str, Any]
  tensors: dict[str, StoredTensor | TorchTensor]

  @property
  def bytes_read(self) -> int:
    """Bytes that were read of its safetensors files so far."""
    return sum(file.bytes_read for file in {
        id(tensor.file): tensor.file for tensor in self.tensors.values()
        if isinstance(tensor, StoredTensor)}.values())

  def fit(self) -> list[engine.Link]:
    """The place of every tensor in our parameters.

    Raises:
      UserError: tensors that are missing, unknown or misshapen.
    """
    return engine.fit(self.layout.rules, self.tensors, self.shapes, where=self.path)


def open_external(path: str, group: str = '') -> External:
  """Opens a model: a folder or a file, here, in a bucket or on the hub (see ``locate``).

  Args:
    path: of the model.
    group: that it is to fill, for classes that may be read in several ways; see
      ``families.family_of``.

  Raises:
    UserError: there is none, its class is unknown, its files are damaged, or it is one file of
      several models.
  """
  models = open_all(path, group)
  if len(models) > 1:
    kinds = ' and '.join(model.family.marker[1] for model in models)
    raise user_error(path, None, f'holds several models ({kinds}); take them apart with jaxgen '
                     'convert import --path=... --out=WEIGHTS, and give WEIGHTS')
  return models[0]


def open_all(path: str, group: str = '') -> list[External]:
  """The models of a path: one, but for files in which releases keep several.

  Args:
    path, group: as for ``open_external``.
  """
  found = locate(path)
  place = split_choice(found)[0]
  root = epath.Path(place)
  folder = root if root.is_dir() else root.parent
  if root.is_dir() and not (root / 'config.json').exists():
    _check_folder(root)
  where, config = str(folder / 'config.json'), {}
  if (folder / 'config.json').exists():
    config = read_config(str(folder))
  family = families.family_of(config, group)
  if family is None and root.is_dir() and ('_class_name' in config or 'model_type' in config):
    raise families.unknown(config, where, group)
  tensors = _renamed(open_weights(found), family, place)
  if family is None:  # a release with a config of its own making, or with none
    if parts := families.measured(tensors):
      return [External(found, section, family, family.layouts[0], families.shapes_of(section), own)
              for family, section, own in parts]
    section = families.section_by_tensors(tensors, place)
    family = families.TABLES[section['family']]
    layout = families.layout_of(family, tensors)
  else:
    layout = families.layout_of(family, tensors)
    section = registry.section(**family.read_config(config, tensors, where, layout))
  return [External(found, section, family, layout, families.shapes_of(section),
                   layout.parameters(tensors))]


def parts_of(root: epath.Path) -> list[epath.Path]:
  """The subfolders that hold models: those with a config.json and, in a folder without weights of
  its own, those with weights alone."""
  bare = not holds_weights(root)
  return sorted(part for part in root.iterdir()
                if (part / 'config.json').exists() or (bare and holds_weights(part)))


def _renamed(tensors: dict[str, Any], family: Family | None, where: str) -> dict[str, Any]:
  """The tensors without what torch's wrappers leave in names, and without a prefix that all names
  share and no table knows, which it prints."""
  tensors = {_WRAPPERS.sub('', name): tensor for name, tensor in tensors.items()}
  prefix = families.shared_prefix(tensors, family)
  if prefix:
    print(f'{where}: all names begin with {prefix!r}, which is left out', file=sys.stderr,
          flush=True)
  return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _check_folder(root: epath.Path) -> None:
  """Raises the error for a folder without config.json that is not a release."""
  inner = [part.name for part in parts_of(root)]
  if inner:
    raise user_error(str(root), None, f'holds several models ({", ".join(inner)}); give the path '
                     'of one of them')
  if not holds_weights(root):
    raise user_error(str(root), None, 'no config.json there, and no weights; give the folder of a '
                     'model')
