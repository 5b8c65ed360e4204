"""Containers of ready records: ArrayRecord files of ours, and prepared TFDS data sets."""

from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.data import sample as samples
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import data_files
from jaxgen.data.sources.base import existing
from jaxgen.data.sources.base import is_hidden
from jaxgen.data.sources.base import is_pattern
from jaxgen.data.sources.builders import builder_of
from jaxgen.data.sources.builders import by_roles
from jaxgen.data.sources.builders import ROLES
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.rows import RowSource
from jaxgen.data.sources.rows import check_fields
from jaxgen.data.sources.rows import root_of
from jaxgen.data.sources.table import Table


class ArrayRecordSource:
  """ArrayRecord files that ``jaxgen data pack`` wrote: a file, a glob or a folder of them."""

  def __init__(self, place: Place):
    # Imported here: only this kind of source needs it.
    from array_record.python import array_record_data_source
    field, path = place.field, place.path
    folder = not is_pattern(path) and existing(path, field).is_dir()
    files = ([str(file) for file in sorted(epath.Path(path).glob('*.arrayrecord'))
              if not is_hidden(file.name)] if folder
             else [str(file) for file in data_files(place, ('.arrayrecord',))])
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
      raise record_error(origin, None, 'the file is damaged; rewrite it with `jaxgen data pack` '
                         f'({str(error)[:60]})') from error
    return samples.from_bytes(data, origin)


class TfdsTable(Table):
  """The records of a prepared TFDS data set, which must be stored as ArrayRecord.

  Attributes:
    path: name of the builder, or folder of a prepared version.
    columns: features.
  """

  def __init__(self, place: Place):
    # Imported here: half a second that only this kind of source needs.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info
    path = place.path
    try:
      builder = (tfds.builder_from_directory(path) if epath.Path(path).is_dir()
                 else tfds.builder(path))
      # Decoding is ours: it knows more kinds of images and names the broken ones.
      images = [name for name, feature in (builder.info.features or {}).items()
                if isinstance(feature, tfds.features.Image)]
      self._records = builder.as_data_source(
          place.split, decoders={name: tfds.decode.SkipDecoding() for name in images})
    except (tfds.core.DatasetNotFoundError, dataset_info.DatasetInfoFileError, OSError,
            NotImplementedError, ValueError, AssertionError) as error:
      raise user_error(place.field, path, 'no TFDS data set of that name, or in that folder, is '
                       f'prepared as array_record with the split {place.split!r} '
                       f'({type(error).__name__}); give the folder that holds '
                       'dataset_info.json') from error
    super().__init__(epath.Path(path))
    self.columns = set(builder.info.features or ())

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Row:
    record: dict[str, Any] = self._records[index]
    return {name: value.item() if isinstance(value, np.generic) else value
            for name, value in record.items()}

  def origin(self, index: int) -> str:
    """set: record number."""
    return f'{self.where}: record {index}'

  def name(self, index: int) -> str:
    """set:record number."""
    return f'{self.where}:{index}'


def open_tfds(place: Place) -> RowSource:
  """A prepared TFDS data set: the name of a builder, or the folder of a prepared version.

  Without ``fields`` it must have the feature ``image``; ``caption`` (or ``text``) and ``id`` are
  used where present. A set with the features of ``builders.ROLES`` (``jaxgen.data.shapes.tfds``)
  is read in the order of its roles.

  Raises:
    UserError: it is not prepared, not as ArrayRecord, or lacks a feature.
  """
  table = TfdsTable(place)
  fields = dict(place.fields)
  if fields:
    check_fields(table, place)
  elif set(ROLES) <= table.columns:
    return RowSource(table, {name: name for name in ROLES}, root_of(table, place), by_roles)
  elif 'image' not in table.columns:
    raise user_error(place.field, place.path, 'has no feature "image", only '
                     f'{sorted(table.columns)}; name the features in fields')
  else:
    usual = {'id': ('id',), 'caption': ('caption', 'text'), 'target': ('image',)}
    fields = {ours: next((name for name in names if name in table.columns), '')
              for ours, names in usual.items()}
    fields = {ours: name for ours, name in fields.items() if name}
  return RowSource(table, fields, root_of(table, place), builder_of(fields))
