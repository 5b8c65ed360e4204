"""Files of a benchmark: JSON, JSON Lines, CSV and parquet, and one line where there are none."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_bytes
from jaxgen.core.texts import decoded
from jaxgen.core.texts import parsed
from jaxgen.data.sample import FileImage


_KINDS = {list: 'list', dict: 'object'}


class Data:
  """The folder that a user has put the files of a benchmark into.

  Args:
    folder: of the files.
    name: of the benchmark, for errors.
    origin: where its files are to be had.
    images: where images that come inside of tables are written to.
  """

  def __init__(self, folder: str, name: str, origin: str, images: str):
    self.folder, self.name, self.origin = epath.Path(folder), name, origin
    self._images = epath.Path(images)

  def path(self, *names: str) -> epath.Path:
    """The first of the files or folders that is there.

    Raises:
      UserError: none of them is; it says where to get them.
    """
    for name in names:
      if (self.folder / name).exists():
        return self.folder / name
    raise user_error('--data', str(self.folder), f'{self.name} needs {" or ".join(names)} there; '
                     f'get it from {self.origin}')

  def image(self, name: str) -> FileImage:
    """An image of the benchmark."""
    return FileImage(str(self.path(name)))

  def json(self, *names: str, kind: type = list) -> Any:
    """The value of a JSON file, which must be a list, or of another ``kind``."""
    file = self.path(*names)
    value = parsed(file.read_bytes(), str(file))
    if not isinstance(value, kind):
      raise user_error(str(file), None, f'must hold a JSON {_KINDS[kind]}; get it from '
                       f'{self.origin}')
    return value

  def lines(self, *names: str) -> list[Any]:
    """The values of a JSON Lines file."""
    file = self.path(*names)
    text = decoded(file.read_bytes(), str(file))
    return [parsed(line.encode(), f'{file}:{number}')
            for number, line in enumerate(text.split('\n'), start=1) if line.strip()]

  def csv(self, *names: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    file = self.path(*names)
    return list(csv.DictReader(io.StringIO(decoded(file.read_bytes(), str(file)))))

  def rows(self, columns: Sequence[str], images: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of all parquet files of the folder, in the order of their names.

    Args:
      columns: that each row must have.
      images: those that hold images, or lists of images. They are written into the folder of the
        results once, and the row has them as lists of files.
    """
    import pyarrow.parquet
    tables = sorted({*self.folder.glob('*.parquet'), *self.folder.glob('*/*.parquet')})
    if not tables:
      raise user_error('--data', str(self.folder), f'{self.name} needs its *.parquet files there; '
                       f'get them from {self.origin}')
    number = 0
    for table in tables:
      file = pyarrow.parquet.ParquetFile(str(table))
      if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise user_error(str(table), None, f'has no column {missing[0]!r}; get {self.name} from '
                         f'{self.origin}')
      for batch in file.iter_batches(batch_size=16, columns=list(columns)):
        for row in batch.to_pylist():
          yield row | {name: self._kept(row[name], f'{number:05d}_{name}') for name in images}
          number += 1

  def _kept(self, value: Any, name: str) -> list[FileImage]:
    """Images of a cell as files; those that are there already are not written again."""
    cells = value if isinstance(value, list) else [value]
    kept = []
    for place, cell in enumerate(cells):
      file = self._images / f'{name}_{place}.png'
      if not isinstance(cell, dict) or not cell.get('bytes'):
        raise user_error(str(self.folder), None, f'a row of {self.name} has no image; get its '
                         f'files from {self.origin}')
      if not file.exists():
        write_bytes(file, cell['bytes'])
      kept.append(FileImage(str(file)))
    return kept


def field(record: Any, name: str, where: str, kind: type | tuple[type, ...] = str) -> Any:
  """A field of a record of a benchmark's file.

  Raises:
    UserError: it is not there, or of another kind.
  """
  value = record.get(name) if isinstance(record, dict) else None
  if not isinstance(value, kind):
    shown = json.dumps(value)[:40] if isinstance(record, dict) else None
    raise user_error(f'{where}: {name}', shown, 'is missing or of another kind; is this the file '
                     'of this benchmark?')
  return value


def choice(value: Any, known: Iterable[str], where: str) -> str:
  """A value that must be one of those that the benchmark knows, as a type of its items.

  Raises:
    UserError: it is another one.
  """
  if value not in (known := list(known)):
    raise user_error(where, value, f'is none of {", ".join(known)}; is this the file of this '
                     'benchmark?')
  return value
