"""Records that wait for a group: divided by their keys into files, and gathered from them."""

import contextlib
import struct
import tempfile
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures

from etils import epath

from jaxgen.core.files import AT_ONCE
from jaxgen.core.files import in_bucket
from jaxgen.core.files import placed
from jaxgen.core.files import writing
from jaxgen.curation import record as records
from jaxgen.curation.recipe import Group
from jaxgen.curation.record import Record

_LENGTHS = struct.Struct('<IQ')  # of the key and of the record


def spill(folder: epath.Path, group: Group, buckets: int, made: Iterable[Record]) -> None:
  """Divides records by key into ``buckets`` files ``00000``, ``00001``, ...

  Args:
    folder: of the files; what it held before is replaced.
    group: that they wait for.
    buckets: files; one that gets no record is there too.
    made: the records, in their order.

  Raises:
    UserError: it cannot be written.
  """
  with placed(folder) as partial, contextlib.ExitStack() as stack:
    with writing(str(folder)):
      partial.mkdir()
      files = [stack.enter_context((partial / f'{bucket:05d}').open('wb'))
               for bucket in range(buckets)]
    for each in made:
      key, data = group.key_of(each).encode(), records.to_bytes(each)
      with writing(str(folder)):
        files[zlib.crc32(key) % buckets].write(_LENGTHS.pack(len(key), len(data)) + key + data)
    with writing(str(folder)):
      stack.close()


def gathered(files: Sequence[epath.Path]) -> Iterator[list[Record]]:
  """The records of one bucket by their keys; of all others only their places are held.

  Args:
    files: of the bucket, in the order of the input.
  """
  with _nearby(files) as near:
    places: dict[str, list[tuple[epath.Path, int]]] = {}
    for file in near:
      for key, place in _keys(file):
        places.setdefault(key, []).append((file, place))
    for key in sorted(places):
      yield [_read(file, place) for file, place in places[key]]


@contextlib.contextmanager
def _nearby(files: Sequence[epath.Path]) -> Iterator[Sequence[epath.Path]]:
  """The files on a local disk: of a bucket, every record would be a request of its own."""
  if not in_bucket(files[0]):
    yield files
    return
  with tempfile.TemporaryDirectory(prefix='jaxgen-') as folder:
    def fetch(number: int) -> epath.Path:
      return files[number].copy(epath.Path(folder) / f'{number:08d}')

    with writing(folder), futures.ThreadPoolExecutor(AT_ONCE) as pool:
      near = list(pool.map(fetch, range(len(files))))
    yield near


def _keys(file: epath.Path) -> Iterator[tuple[str, int]]:
  """Key and place of each record in a file."""
  with file.open('rb') as stream:
    while lengths := stream.read(_LENGTHS.size):
      key, data = _LENGTHS.unpack(lengths)
      yield stream.read(key).decode(), stream.tell() - key - _LENGTHS.size
      stream.seek(data, 1)


def _read(file: epath.Path, place: int) -> Record:
  with file.open('rb') as stream:
    stream.seek(place)
    key, data = _LENGTHS.unpack(stream.read(_LENGTHS.size))
    stream.seek(key, 1)
    return records.from_bytes(stream.read(data))
