"""Sources: random access to the samples of a folder, a file or a builder, whatever its format."""

import json
from collections.abc import Callable
from collections.abc import Iterator
from typing import Protocol

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data import sample as samples
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Sample
from jaxgen.data.shapes import ShapesSource

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff', '.ppm')
CAPTION_SUFFIX = '.txt'
CAPTIONS_FILE = 'captions.jsonl'


class Source(Protocol):
  """A sequence of samples; ``source[i]`` is the same sample at every call."""

  def __len__(self) -> int:
    ...

  def __getitem__(self, index: int) -> Sample:
    ...


def open_source(kind: str, path: str, *, split: str = 'train', limit: int = 0, size: int = 0,
                seed: int = 0, field: str = '--path') -> Source:
  """Opens a source of any kind.

  Args:
    kind: a key of ``KINDS``.
    path: folder, file, glob or TFDS name; '' for shapes.
    split: ``train`` or ``test``, where the kind knows splits.
    limit: first records to keep; 0 = all.
    size: side of the drawn images, for shapes only.
    seed: of the drawn images, for shapes only.
    field: config field or flag that holds the path, for errors.

  Raises:
    UserError: nothing at the path, no record in it, or a record that is not as it should be.
  """
  if kind not in KINDS:
    raise user_error(field, kind, f'unknown kind of source; use one of {", ".join(sorted(KINDS))}')
  source = (ShapeSamples(split, size, seed) if kind == 'shapes'
            else KINDS[kind](path, split, field))
  if not len(source):
    raise user_error(field, path, f'no sample of kind {kind} in it; check the path and the kind')
  return First(source, limit) if limit and limit < len(source) else source


class First:
  """The first ``limit`` samples of another source."""

  def __init__(self, source: Source, limit: int):
    self._source, self._limit = source, limit

  def __len__(self) -> int:
    return self._limit

  def __getitem__(self, index: int) -> Sample:
    if not 0 <= index < self._limit:
      raise IndexError(index)
    return self._source[index]


class ShapeSamples:
  """The drawn scenes of ``jaxgen.data.shapes``."""

  def __init__(self, split: str, size: int, seed: int):
    self._scenes = ShapesSource(split, size, seed)

  def __len__(self) -> int:
    return len(self._scenes)

  def __getitem__(self, index: int) -> Sample:
    record = self._scenes[index]
    return samples.pair(record['id'], record['image'], record['caption'], record['id'])


class FolderSource:
  """Every image below a folder, sorted by path.

  The caption of ``a/b.jpg`` is the text of ``a/b.txt``, or stands in ``captions.jsonl`` at the top
  of the folder, one ``{"file": "a/b.jpg", "caption": "..."}`` to a line; it may be absent.
  """

  def __init__(self, path: str, split: str, field: str):
    del split  # a folder has none
    self._root = _existing(path, field)
    if not self._root.is_dir():
      raise user_error(field, path, 'is not a folder; use kind jsonl, arrayrecord or tfds for it')
    names = sorted(str(file.relative_to(self._root)) for file in _below(self._root))
    self._files = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    self._sidecars = {name for name in names if name.lower().endswith(CAPTION_SUFFIX)}
    listed = self._root / CAPTIONS_FILE
    self._captions = JsonlSource(str(listed), '', field).captions() if listed.exists() else {}

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> Sample:
    name = self._files[index]
    file, caption = self._root / name, self._captions.get(name)
    sidecar = name.rpartition('.')[0] + CAPTION_SUFFIX
    if caption is None and sidecar in self._sidecars:
      caption = (self._root / sidecar).read_text().strip()
    return samples.pair(name, FileImage(str(file)), caption, str(file))


class JsonlSource:
  """A JSON Lines file; see ``sample.from_json`` for its two forms. Paths are relative to it."""

  def __init__(self, path: str, split: str, field: str):
    del split  # a file has none
    self._path = _existing(path, field)
    if self._path.is_dir():
      raise user_error(field, path, 'is a folder; name the .jsonl file, or use kind folder')
    lines = self._path.read_text().splitlines()
    self._lines = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    for index in range(len(self._lines)):
      self[index]  # a broken line is reported before training starts, not in the middle

  def __len__(self) -> int:
    return len(self._lines)

  def __getitem__(self, index: int) -> Sample:
    number, line = self._lines[index]
    origin = f'{self._path}:{number}'
    try:
      record = json.loads(line)
    except json.JSONDecodeError as error:
      raise user_error(origin, line[:80], f'is not JSON: {error}') from None
    return samples.from_json(record, origin, str(self._path.parent))

  def captions(self) -> dict[str, str]:
    """Sample id (the file, where no id is given) -> caption."""
    found = (self[index] for index in range(len(self)))
    return {sample.id: sample.texts[0].text for sample in found if sample.texts}


class ArrayRecordSource:
  """ArrayRecord files that ``jaxgen data pack`` wrote: a file, a glob or a folder of them."""

  def __init__(self, path: str, split: str, field: str):
    del split  # packed data has none
    # Imported here: only this kind of source needs it.
    from array_record.python import array_record_data_source
    root = epath.Path(path)
    if any(sign in root.name for sign in '*?['):
      files = sorted(map(str, root.parent.glob(root.name)))
    elif _existing(path, field).is_dir():
      files = sorted(map(str, root.glob('*.arrayrecord')))
    else:
      files = [path]
    if not files:
      raise user_error(field, path,
                       'no .arrayrecord file there; write some with `jaxgen data pack`')
    try:
      self._records = array_record_data_source.ArrayRecordDataSource(files)
    except (RuntimeError, ValueError) as error:
      raise user_error(field, path, f'not ArrayRecord files ({error})') from error
    self._path = path

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Sample:
    origin = f'{self._path}: record {index}'
    try:
      data = self._records[index]
    except RuntimeError as error:
      raise user_error(origin, None, 'the file is damaged; write it anew with `jaxgen data pack` '
                       f'({str(error)[:60]})') from error
    return samples.from_bytes(data, origin)


class TfdsSource:
  """A prepared TFDS data set: the name of a builder, or the folder of a prepared version.

  It must be stored as ArrayRecord and have the feature ``image``; ``caption`` (or ``text``) and
  ``id`` are used where present.
  """

  def __init__(self, path: str, split: str, field: str):
    # Imported here: half a second that only this kind of source needs.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info
    try:
      builder = (tfds.builder_from_directory(path) if epath.Path(path).is_dir()
                 else tfds.builder(path))
      # Decoding is ours: it knows more kinds of images and names the broken ones.
      self._records = builder.as_data_source(
          split, decoders={'image': tfds.decode.SkipDecoding()})
    except (tfds.core.DatasetNotFoundError, dataset_info.DatasetInfoFileError, OSError,
            NotImplementedError, ValueError, AssertionError) as error:
      raise user_error(field, path, 'no TFDS data set of that name, or in that folder, is prepared '
                       f'as array_record with the split {split!r} ({type(error).__name__}); '
                       'give the folder that holds dataset_info.json') from error
    features = set(builder.info.features or ())
    if 'image' not in features:
      raise user_error(field, path, f'has no feature "image", only {sorted(features)}')
    self._caption = next((name for name in ('caption', 'text') if name in features), None)
    self._has_id = 'id' in features
    self._path = path

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Sample:
    record, origin = self._records[index], f'{self._path}: record {index}'
    caption = record[self._caption].decode() if self._caption else None
    sample_id = record['id'].decode() if self._has_id else f'{self._path}:{index}'
    return samples.pair(sample_id, record['image'], caption, origin)


KINDS: dict[str, Callable[..., Source]] = {
    'shapes': ShapeSamples,
    'folder': FolderSource,
    'jsonl': JsonlSource,
    'arrayrecord': ArrayRecordSource,
    'tfds': TfdsSource,
}


def _existing(path: str, field: str) -> epath.Path:
  found = epath.Path(path)
  if not found.exists():
    raise user_error(field, path, 'no such file or folder; check the path')
  return found


def _below(folder: epath.Path) -> Iterator[epath.Path]:
  """Images and caption files below a folder; only other names are asked if they are folders."""
  for entry in folder.iterdir():
    if entry.name.lower().endswith((*IMAGE_SUFFIXES, CAPTION_SUFFIX)):
      yield entry
    elif entry.is_dir():
      yield from _below(entry)
