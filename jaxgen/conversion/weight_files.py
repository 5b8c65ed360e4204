"""Which files of a folder hold the weights: plain names, several files with an index, variants."""

import re
import sys
from collections.abc import Iterable
from typing import Any

from etils import epath

from jaxgen.conversion.torch_files import ENDINGS as TORCH_ENDINGS
from jaxgen.core import files
from jaxgen.core.errors import user_error

ENDINGS = ('.safetensors', *TORCH_ENDINGS)
# File names of transformers, diffusers and PEFT.
_STEMS = ('model', 'diffusion_pytorch_model', 'adapter_model')
_TORCH_STEMS = ('pytorch_model', *_STEMS[1:])
_INDEX = re.compile(r'.*\.index(\.[\w-]+)?\.json')
# The same weights in another dtype, in a release that has no usual names.
_PRECISIONS = re.compile(r'[._-](fp8|fp16|bf16|int8)([._-]\w+)?')
_NO_WEIGHTS = re.compile(r'(training_args|optimizer|scheduler|scaler|rng_state|random_states).*')


def split_choice(path: str) -> tuple[str, str]:
  """``path#name`` as ``(path, name)``: which dictionary of a PyTorch file is meant; '' = none."""
  place, _, choice = str(path).rpartition('#')
  if place and not epath.Path(path).exists():
    return place, choice
  return str(path), ''


def find_files(path: str) -> tuple[list[epath.Path], epath.Path | None, set[str]]:
  """The files of a folder, or those of one file or index.

  Returns:
    ``(files, their index, names of the tensors that the index says they hold)``.

  Raises:
    UserError: no weights, several that are not of one model, or a broken index.
  """
  root = epath.Path(path)
  found = _in_folder(root) if root.is_dir() else root
  if found.suffix in ENDINGS:
    return [found], None, set()
  if not _INDEX.fullmatch(found.name):
    raise user_error(path, None, f'no file of weights that can be read; their names end with '
                     f'{", ".join(ENDINGS)}')
  places = read_json(found).get('weight_map')
  if not places or not isinstance(places, dict):
    raise user_error(str(found), None, 'has no weight_map; copy the folder again')
  names = sorted(set(map(str, places.values())))
  absent = [name for name in names if not (found.parent / name).exists()]
  if absent:
    raise user_error(str(found), absent, 'these files are missing; copy the folder again')
  return [found.parent / name for name in names], found, set(places)


def read_json(path: epath.Path) -> dict[str, Any]:
  """A file with a JSON object.

  Raises:
    UserError: no such file, or not one with an object.
  """
  if not path.exists():
    raise user_error(str(path), None, 'no such file; is this the folder of a model?')
  return files.read_json(path, 'copy the file again')


def _in_folder(root: epath.Path) -> epath.Path:
  """The one weight file of a folder, or the index of several.

  Safetensors come before PyTorch's files, an index before files, and plain names before variants
  such as ``model.fp16.safetensors``: what ``from_pretrained`` of their libraries takes.
  """
  names = sorted(file.name for file in root.iterdir())
  for stems, endings in ((_STEMS, ENDINGS[:1]), (_TORCH_STEMS, TORCH_ENDINGS)):
    usual = _stem_pattern(stems, endings)
    plain = [name for name in names if usual.fullmatch(name) and not _variant(usual, name)]
    indices = [name for name in plain if _INDEX.fullmatch(name)]
    variants = [name for name in names if usual.fullmatch(name) and _variant(usual, name)]
    if not (plain or variants):
      plain = [name for name in names
               if name.endswith(endings) and not _NO_WEIGHTS.fullmatch(name)]
      plain = _first_of_precisions(root, plain) or plain
    found = indices or plain or [name for name in variants if _INDEX.fullmatch(name)] or variants
    if len(found) == 1:
      if found[0] in variants:
        print(f'{root}: takes the variant {found[0]}', file=sys.stderr, flush=True)
      return root / found[0]
    if found:
      raise user_error(str(root), found, 'holds several files of weights; give one of them in '
                       'place of the folder')
  raise user_error(str(root), None, f'must hold weights ({", ".join(ENDINGS)}), or an index of '
                   'them')


def _first_of_precisions(root: epath.Path, names: list[str]) -> list[str]:
  """The file that all others are another precision of, as ``states_fp8.pt``; [] = none is."""
  stems = {name: name.rpartition('.')[0] for name in names}
  first = min(names, key=len, default='')
  others = [stems[name].removeprefix(stems[first]) for name in names if name != first]
  if not others or not all(map(_PRECISIONS.fullmatch, others)):
    return []
  print(f'{root}: takes {first}, of which the other files are copies in another precision',
        file=sys.stderr, flush=True)
  return [first]


def holds_weights(folder: epath.Path) -> bool:
  """Whether files of weights lie in a folder."""
  return folder.is_dir() and any(file.suffix in ENDINGS for file in folder.iterdir())


def _stem_pattern(stems: Iterable[str], endings: Iterable[str]) -> re.Pattern[str]:
  """Names of single files and indices; the groups are their variants."""
  ends = '|'.join(map(re.escape, endings))
  return re.compile(rf'(?:{"|".join(stems)})(?:(?:\.([\w-]+))?(?:{ends})|'
                    rf'(?:{ends})\.index(?:\.([\w-]+))?\.json)')


def _variant(pattern: re.Pattern[str], name: str) -> str:
  match = pattern.fullmatch(name)
  return match[1] or match[2] or ''
