"""Folders of images: with captions beside them, and target folders with folders of controls."""

import dataclasses
import json
import re
from collections.abc import Iterable
from collections.abc import Mapping

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data import sample as samples
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import IMAGE_SUFFIXES
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import TEXT_SUFFIX
from jaxgen.data.sources.base import existing_folder
from jaxgen.data.sources.base import files_below
from jaxgen.data.sources.base import shortened
from jaxgen.data.sources.fields import texts_of
from jaxgen.data.sources.tables import JsonLines

CAPTIONS_LINES = 'captions.jsonl'
CAPTIONS_JSON = 'captions.json'
# Names of folders that are recognised; ``fields`` names others.
TARGETS = ('target', 'targets', 'image', 'images', 'output', 'outputs', 'edited')
CONTROLS = ('control', 'controls', 'conditioning', 'source', 'sources', 'input', 'inputs',
            'reference', 'references')
_ROLES = ('context', 'source', 'reference', 'inputs')


class FolderSource:
  """Every image below a folder, sorted by path.

  The caption of ``a/b.jpg`` is the text of ``a/b.txt``, or stands at the top of the folder: in
  ``captions.jsonl``, one ``{"file": "a/b.jpg", "caption": "..."}`` to a line, or in
  ``captions.json``, ``{"a/b.jpg": "..."}``. It may be absent, and a list in JSON is paraphrases.
  """

  def __init__(self, place: Place):
    folder = existing_folder(place.path, place.field)
    if control_folders(folder):
      raise user_error(place.field, place.path, 'has folders of targets and of controls, of which '
                       'kind folder would make targets alike; use kind controls or auto')
    self._images = _Captioned(folder)

  def __len__(self) -> int:
    return len(self._images.names)

  def __getitem__(self, index: int) -> Sample:
    name = self._images.names[index]
    return self._images.sample(name, ())


class ControlSource:
  """A folder of targets with captions, and folders of controls that belong to them by stem.

  ``control/x.*`` is the source of an edit whose target is ``target/x.*``. Several references are
  numbered, ``control/x_0.*``, ``control/x_1.*``, or lie in ``control1/x.*``, ``control2/x.*``.
  Targets may also lie at the top of the folder. Without ``fields`` folders are recognised by the
  names ``TARGETS`` and ``CONTROLS``; with ``fields`` they are named: ``(('target', 'after'),
  ('source', 'before'))``, roles being ``context``, ``source``, ``reference`` and ``inputs``.

  Raises:
    UserError: a target has no control, or a control belongs to no target; both are listed.
  """

  def __init__(self, place: Place):
    root = existing_folder(place.path, place.field)
    names = dict(place.fields) or control_folders(root)
    if not names:
      raise user_error(place.field, place.path, 'no folders of targets and controls in it, such as '
                       'target/ and control/; name them in fields')
    if 'target' not in names or not set(names) - {'target'} <= set(_ROLES):
      raise user_error(f'{place.field}: fields', sorted(names), 'name the folder "target" and at '
                       f'least one of {", ".join(_ROLES)}')
    self._targets = _Captioned(existing_folder(str(root / names['target']), place.field),
                               deep=names['target'] != '.')
    self._inputs: dict[str, list[Part]] = {name: [] for name in self._targets.names}
    for role, folders in names.items():
      if role != 'target':
        folders = (folders,) if isinstance(folders, str) else folders
        self._add(role, [root / folder for folder in folders], place)
    without = [name for name, parts in self._inputs.items() if not parts]
    if without:
      raise user_error(place.path, len(without), f'targets without a control: {shortened(without)};'
                       ' add the controls, or keep plain images in a folder of their own')

  def __len__(self) -> int:
    return len(self._targets.names)

  def __getitem__(self, index: int) -> Sample:
    name = self._targets.names[index]
    return self._targets.sample(name, self._inputs[name])

  def _add(self, role: str, folders: list[epath.Path], place: Place) -> None:
    """Adds the controls of one role to the targets they belong to."""
    by_stem = {name.rpartition('.')[0]: name for name in self._targets.names}
    found: dict[str, list[str]] = {name: [] for name in self._targets.names}
    unused, missing = [], []
    for folder in folders:
      controls = _controls(existing_folder(str(folder), place.field), by_stem)
      unused += [f'{folder.name}/{file}' for file in controls.unused]
      for stem, name in by_stem.items():
        files = controls.files.get(stem, [])
        if not files and len(folders) > 1:
          missing.append(f'{folder.name}/{stem}')
        found[name] += [f'{folder}/{file}' for file in files]
    if unused:
      raise user_error(place.path, len(unused), f'controls that belong to no target: '
                       f'{shortened(unused)}; their stems must be those of targets, or those and '
                       '_0, _1 ...')
    if missing:
      raise user_error(place.path, len(missing), f'controls are missing: {shortened(missing)}; '
                       'every folder of controls needs one for each target')
    for name, files in found.items():
      kind = role if role != 'inputs' else 'source' if len(files) == 1 else 'reference'
      self._inputs[name] += [Part(kind, image=FileImage(file)) for file in files]


def control_folders(root: epath.Path) -> dict[str, Names]:
  """The ``fields`` of a folder that has targets and controls, {} for any other folder."""
  entries = list(root.iterdir())
  folders = sorted(entry.name for entry in entries
                   if re.sub(r'_?\d+$', '', entry.name.lower()) in (*TARGETS, *CONTROLS)
                   and entry.is_dir())
  controls = [name for name in folders if re.sub(r'_?\d+$', '', name.lower()) in CONTROLS]
  targets = [name for name in folders if name.lower() in TARGETS]
  if not targets and any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries):
    targets = ['.']
  if len(targets) != 1 or not controls:
    return {}
  controls.sort(key=lambda name: int(re.search(r'\d*$', name)[0] or 0))
  return {'target': targets[0], 'inputs': tuple(controls)}


@dataclasses.dataclass(frozen=True)
class _Controls:
  """Files of one folder: by stem of the target in order, and those that belong to none."""

  files: Mapping[str, list[str]]
  unused: list[str]


def _controls(folder: epath.Path, targets: Iterable[str]) -> _Controls:
  targets, numbered, unused = set(targets), {}, []
  for file in sorted(_image_names(folder)):
    stem = file.rpartition('.')[0]
    head, _, number = stem.rpartition('_')
    if stem in targets:
      key, number = stem, None
    elif head in targets and number.isdigit():
      key, number = head, int(number)
    else:
      unused.append(file)
      continue
    if number in numbered.setdefault(key, {}):
      raise user_error(f'{folder}/{file}', None, f'and {numbered[key][number]} are controls of the '
                       'same target and number; remove one')
    numbered[key][number] = file
  for stem, files in numbered.items():
    numbers = sorted(files, key=lambda number: -1 if number is None else number)
    first = numbers[0]
    if len(files) > 1 and first is None or first is not None and (
        first > 1 or numbers[-1] - first + 1 != len(numbers)):
      raise user_error(f'{folder}/{stem}', sorted(files.values()), 'controls of one target must be '
                       'numbered without a gap, from _0 or _1 on')
  return _Controls({stem: [files[number] for number in sorted(files, key=lambda n: n or 0)]
                    for stem, files in numbered.items()}, unused)


class _Captioned:
  """The images below a folder and their captions.

  Args:
    folder: where they lie.
    deep: look into folders below it, too.
  """

  def __init__(self, folder: epath.Path, deep: bool = True):
    self.folder = folder
    files = files_below(folder) if deep else folder.iterdir()
    below = sorted(str(file.relative_to(folder)) for file in files)
    self.names = [name for name in below if name.lower().endswith(IMAGE_SUFFIXES)]
    self._sidecars = {name for name in below if name.lower().endswith(TEXT_SUFFIX)}
    self._captions: dict[str, tuple[str, ...]] = {}
    if CAPTIONS_JSON in below:
      self._captions |= _from_json(folder / CAPTIONS_JSON)
    if CAPTIONS_LINES in below:
      self._captions |= _from_lines(folder / CAPTIONS_LINES)

  def sample(self, name: str, inputs: Iterable[Part]) -> Sample:
    """The inputs, the caption, the image."""
    file, captions = self.folder / name, self._captions.get(name, ())
    sidecar = name.rpartition('.')[0] + TEXT_SUFFIX
    if not captions and sidecar in self._sidecars:
      captions = ((self.folder / sidecar).read_text().strip(),)
    texts = (samples.text_part('user', captions),) if captions else ()
    target = Part('target', image=FileImage(str(file)), loss=True)
    return Sample(name, (*inputs, *texts, target), origin=str(file))


def _image_names(folder: epath.Path) -> list[str]:
  return [name for name in (str(file.relative_to(folder)) for file in files_below(folder))
          if name.lower().endswith(IMAGE_SUFFIXES)]


def _from_lines(path: epath.Path) -> dict[str, tuple[str, ...]]:
  """captions.jsonl: sample id (the file, where no id is given) -> wordings."""
  table = JsonLines(path)
  found = (samples.from_json(table[index], table.origin(index), str(path.parent))
           for index in range(len(table)))
  return {sample.id: sample.texts[0].variants or (sample.texts[0].text,)
          for sample in found if sample.texts}


def _from_json(path: epath.Path) -> dict[str, tuple[str, ...]]:
  """captions.json: file -> wordings."""
  try:
    captions = json.loads(path.read_bytes())
  except ValueError as error:
    raise user_error(str(path), None, f'is not JSON: {error}') from None
  if not isinstance(captions, dict):
    raise user_error(str(path), None, 'must be an object: {file: caption}')
  return {name: texts_of({'caption': value}, 'caption', f'{path}: {name}')
          for name, value in captions.items()}
