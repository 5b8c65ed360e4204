"""Folders of images: with captions beside them, and target folders with folders of controls."""

import dataclasses
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.core.texts import decoded
from jaxgen.core.texts import parsed
from jaxgen.data import sample as samples
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import IMAGE_SUFFIXES
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import existing_folder
from jaxgen.data.sources.base import files_below
from jaxgen.data.sources.base import is_hidden
from jaxgen.data.sources.base import shortened
from jaxgen.data.sources.base import warn_left_out
from jaxgen.data.sources.captions import Captions
from jaxgen.data.sources.captions import plain_path
from jaxgen.data.sources.fields import texts_of
from jaxgen.data.sources.tables import JsonLines

CAPTIONS_LINES = 'captions.jsonl'
CAPTIONS_JSON = 'captions.json'
# Names of folders that are recognised; ``fields`` names others.
TARGETS = ('target', 'targets', 'image', 'images', 'output', 'outputs', 'edited')
CONTROLS = ('control', 'controls', 'conditioning', 'source', 'sources', 'input', 'inputs',
            'reference', 'references')
# Images all the same, which Pillow does not read.
UNREAD_SUFFIXES = ('.heic', '.heif', '.jxl', '.svg', '.psd', '.xcf', '.raw', '.dng', '.cr2', '.cr3',
                   '.nef', '.arw', '.orf', '.raf', '.rw2')
# Of tables that may describe the images of a folder.
TABLE_SUFFIXES = ('.jsonl', '.json', '.csv', '.tsv')
_ROLES = ('context', 'source', 'reference', 'inputs')


class FolderSource:
  """Every image below a folder, sorted by path.

  The caption of ``a/b.jpg`` is the text of ``a/b.txt``, or stands at the top of the folder: in
  ``captions.jsonl``, one ``{"file": "a/b.jpg", "caption": "..."}`` to a line, or in
  ``captions.json``, ``{"a/b.jpg": "..."}``. It may be absent. A list in JSON is paraphrases, as are
  several captions of one image. A caption in JSON comes before that of a text file.
  """

  def __init__(self, place: Place):
    folder = existing_folder(place.path, place.field)
    if control_folders(folder):
      raise user_error(place.field, place.path, 'has folders of targets and of controls, of which '
                       'kind folder would make targets alike; use kind controls or auto')
    self._images = _Captioned(folder)

  @property
  def unused(self) -> list[str]:
    """Captions of no image."""
    return self._images.unused

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

  @property
  def unused(self) -> list[str]:
    """Captions of no target."""
    return self._targets.unused

  def __len__(self) -> int:
    return len(self._targets.names)

  def __getitem__(self, index: int) -> Sample:
    name = self._targets.names[index]
    return self._targets.sample(name, self._inputs[name])

  def _add(self, role: str, folders: list[epath.Path], place: Place) -> None:
    """Adds the controls of one role to the targets they belong to."""
    by_stem = {plain_path(name.rpartition('.')[0]): name for name in self._targets.names}
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
  entries = [entry for entry in root.iterdir() if not is_hidden(entry.name)]
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
    stem = plain_path(file.rpartition('.')[0])
    head, _, number = stem.rpartition('_')
    if stem in targets:
      key, number = stem, None
    elif head in targets and number.isdecimal():
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
  """The images below a folder and their captions; what belongs to no image is logged by name.

  Args:
    folder: where they lie.
    deep: look into folders below it, too.

  Attributes:
    names: of the images.
    unused: captions of no image.

  Raises:
    UserError: a table of captions is not as it should be, or names no image of the folder.
  """

  def __init__(self, folder: epath.Path, deep: bool = True):
    self.folder = folder
    left_out: dict[str, list[str]] = {}
    below = sorted(str(file.relative_to(folder)) for file in files_below(folder, left_out))
    below = [name for name in below if deep or '/' not in name]
    self.names = [name for name in below if name.lower().endswith(IMAGE_SUFFIXES)]
    captions = Captions(self.names)
    for name, read in ((CAPTIONS_JSON, _from_json), (CAPTIONS_LINES, _from_lines)):
      if name in below:
        captions.add(str(folder / name), read(folder / name), left_out)
    captions.add_sidecars(folder, below, left_out)
    self._captions, self._sidecars = captions.texts, captions.sidecars
    self.unused = captions.unused
    unread = [name for name in below if name.lower().endswith(UNREAD_SUFFIXES)]
    if unread:
      left_out['images of formats that are not read; convert them'] = unread
    tables = [name for name in below if '/' not in name and name.lower().endswith(TABLE_SUFFIXES)
              and name not in (CAPTIONS_JSON, CAPTIONS_LINES)]
    if tables:
      left_out['tables, of which kind auto takes one alone; name it as the path'] = tables
    warn_left_out(str(folder), left_out)

  def sample(self, name: str, inputs: Iterable[Part]) -> Sample:
    """The inputs, the caption, the image.

    Raises:
      RecordError: the caption cannot be read.
    """
    file, captions = self.folder / name, self._captions.get(name, ())
    if not captions and name in self._sidecars:
      captions = (_text(self.folder / self._sidecars[name]),)
    texts = (samples.text_part('user', captions),) if captions else ()
    target = Part('target', image=FileImage(str(file)), loss=True)
    return Sample(name, (*inputs, *texts, target), origin=str(file))


def _image_names(folder: epath.Path) -> list[str]:
  return [name for name in (str(file.relative_to(folder)) for file in files_below(folder))
          if name.lower().endswith(IMAGE_SUFFIXES)]


def _text(file: epath.Path) -> str:
  try:
    return decoded(file.read_bytes(), str(file)).strip()
  except OSError as error:
    raise record_error(str(file), None, f'cannot be read ({error.strerror or error})') from None


def _from_lines(path: epath.Path) -> Iterator[tuple[str, tuple[str, ...]]]:
  """captions.jsonl: (path of the image as it stands there, wordings)."""
  table = JsonLines(path)
  for index in range(len(table)):
    sample = samples.from_json(table[index], table.origin(index), str(path.parent))
    text = next(iter(sample.texts), None)
    for image in sample.images[-1:]:
      if isinstance(image.image, FileImage):
        name = image.image.path.removeprefix(f'{path.parent}/')
        yield name, () if text is None else text.variants or (text.text,)


def _from_json(path: epath.Path) -> Iterator[tuple[str, tuple[str, ...]]]:
  """captions.json: (path of the image as it stands there, wordings)."""
  captions = parsed(path.read_bytes(), str(path), pairs=_with_duplicates)
  if not isinstance(captions, dict):
    raise user_error(str(path), None, 'must be an object: {file: caption}')
  for name, value in captions.items():
    yield name, texts_of({'caption': value}, 'caption', f'{path}: {name}')


def _with_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object of JSON; values of one name, of which ``json`` keeps the last, become a list."""
  found: dict[str, list[Any]] = {}
  for name, value in pairs:
    found.setdefault(name, []).append(value)
  return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
