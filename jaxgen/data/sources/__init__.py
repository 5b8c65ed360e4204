"""Sources: random access to the samples of a folder, a file or a builder, whatever its format."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.data import sample as samples
from jaxgen.data.sample import Sample
from jaxgen.data.shapes.geneval import ShapesSource
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.data.shapes.source import parse_settings
from jaxgen.data.shapes.source import task_names
from jaxgen.data.sources.base import First
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import Source
from jaxgen.data.sources.folder import ControlSource
from jaxgen.data.sources.folder import FolderSource
from jaxgen.data.sources.layouts import kind_of
from jaxgen.data.sources.layouts import main_table
from jaxgen.data.sources.layouts import open_table
from jaxgen.data.sources.named import open_named
from jaxgen.data.sources.named import PRESETS
from jaxgen.data.sources.photos import PhotoSource
from jaxgen.data.sources.records import ArrayRecordSource
from jaxgen.data.sources.records import open_tfds
from jaxgen.data.sources.subjects import SubjectSource
from jaxgen.data.sources.tar import open_tars

__all__ = ['ControlSource', 'First', 'FolderSource', 'KINDS', 'PRESETS', 'Place', 'ShapeSamples',
           'Source', 'open_source']


def open_source(kind: str, path: str, *, split: str = 'train', limit: int = 0, size: int = 0,
                seed: int = 0, fields: Iterable[tuple[str, Names]] | Mapping[str, Names] = (),
                root: str = '', field: str = '--path') -> Source:
  """Opens a source of any kind.

  Args:
    kind: a key of ``KINDS``; ``auto`` looks at the path; or the name of a public set, a key of
      ``PRESETS``.
    path: folder, file, glob, brace pattern or TFDS name; of shapes the drawn task, '' = captions.
    split: ``train``, ``test`` or ``validation``, where the kind knows splits.
    limit: first records to keep; 0 = all.
    size: side of the images, for shapes and photos only.
    seed: of the samples, for shapes and photos only.
    fields: our name -> name or names of a column, member, feature or (kind ``controls``) folder;
      ``builders.FIELDS`` lists ours. A dotted name reaches into a struct, ``{n}`` stands for a
      number. Empty: recognised. Of shapes: setting -> value, see ``parse_settings``; of photos:
      ``task``, see ``PhotoSource``.
    root: folder that relative image paths start from; '' = beside the file that names them.
    field: config field or flag that holds the path, for errors.

  Raises:
    UserError: nothing at the path, no record in it, or a record that is not as it should be.
  """
  if kind not in KINDS and kind not in PRESETS:
    raise user_error(field, kind, f'unknown kind of source; use one of {", ".join(sorted(KINDS))}, '
                     f'or the name of a public set: {", ".join(sorted(PRESETS))}')
  place = Place(path, split, field, dict(fields), root)
  if kind == 'shapes':
    source = _open_shapes(place, size, seed)
  elif kind == 'photos':
    source = PhotoSource(_open_auto(dataclasses.replace(place, fields={})), place, size, seed)
  else:
    source = open_named(kind, place) if kind in PRESETS else KINDS[kind](place)
  if not len(source):
    raise user_error(field, path, f'no sample of kind {kind} in it; check the path and the kind')
  return First(source, limit) if limit and limit < len(source) else source


def _open_shapes(place: Place, size: int, seed: int) -> Source:
  if not place.path:
    if place.fields:
      raise user_error(place.field, dict(place.fields), 'captions have no settings; name a drawn '
                       'task in the path')
    return ShapeSamples(place.split, size, seed)
  names = task_names(place.path, place.field)
  if len(names) > 1:
    raise user_error(place.field, place.path, 'name one drawn task for each source')
  return DrawnSource(names[0], parse_settings(place.fields, size, place.field), place.split, seed)


class ShapeSamples:
  """The captioned scenes of ``jaxgen.data.shapes.geneval``."""

  def __init__(self, split: str, size: int, seed: int):
    self._scenes = ShapesSource(split, size, seed)

  def __len__(self) -> int:
    return len(self._scenes)

  def __getitem__(self, index: int) -> Sample:
    record = self._scenes[index]
    return samples.pair(record['id'], record['image'], record['caption'], record['id'])


def _open_auto(place: Place) -> Source:
  kind = kind_of(place)
  if kind != 'table':
    return KINDS[kind](place)
  table = main_table(epath.Path(place.path))
  return _open_auto(dataclasses.replace(place, path=str(table)))


def _open_subjects(place: Place) -> Source:
  return SubjectSource(_open_auto(place), place)


def _table(kind: str) -> Callable[[Place], Source]:
  return lambda place: open_table(kind, place)


KINDS: dict[str, Callable[..., Source]] = {
    'auto': _open_auto,
    'shapes': ShapeSamples,
    'folder': FolderSource,
    'controls': ControlSource,
    'jsonl': _table('jsonl'),
    'json': _table('json'),
    'csv': _table('csv'),
    'parquet': _table('parquet'),
    'tar': open_tars,
    'arrayrecord': ArrayRecordSource,
    'tfds': open_tfds,
    'photos': PhotoSource,
    'subjects': _open_subjects,
}
