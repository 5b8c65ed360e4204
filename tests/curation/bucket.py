"""A bucket that several processes share and that outlives them: ``s3://`` kept in a folder.

Objects have names and no folders, appear when they are whole, and are copied where a file would be
renamed.
"""

import os
import pathlib
import sys
import urllib.parse
import uuid

import fsspec


def register(folder: str) -> None:
  """Makes ``s3://`` of this process the bucket in a folder."""
  fsspec.register_implementation('s3', type('S3', (Bucket,), dict(root=pathlib.Path(folder))),
                                 clobber=True)


class Bucket(fsspec.AbstractFileSystem):
  """See above.

  Attributes:
    root: folder with one file for each object.
  """

  protocol = 's3'
  cachable = False
  root: pathlib.Path

  def ls(self, path, detail=True, **kwargs):
    """Objects and common prefixes one level below a path, or the object itself."""
    path = self._strip_protocol(path)
    below, found = f'{path}/' if path else '', {}
    for file in self.root.iterdir():
      name = urllib.parse.unquote(file.name)
      if file.suffix == '.part' or not (name == path or name.startswith(below)):
        continue
      head, inner, _ = name[len(below):].partition('/')
      if name != path and inner:
        found[below + head] = dict(name=below + head, size=0, type='directory')
      else:
        found[name] = dict(name=name, size=file.stat().st_size, type='file')
    if not found:
      raise FileNotFoundError(path)
    return list(found.values()) if detail else sorted(found)

  def makedirs(self, path, exist_ok=False):
    """There are no folders."""

  def cp_file(self, path1, path2, **kwargs):
    """Copies an object."""
    with self.open(path1) as one, self.open(path2, 'wb') as other:
      other.write(one.read())

  def _rm(self, path):
    self._file(path).unlink(missing_ok=True)  # a common prefix is nothing

  def _open(self, path, mode='rb', **kwargs):
    file = self._file(path)
    return _Upload(file) if 'w' in mode else open(file, mode)

  def _file(self, path) -> pathlib.Path:
    return self.root / urllib.parse.quote(self._strip_protocol(path), safe='')


class _Upload:
  """An object that is being written."""

  def __init__(self, file: pathlib.Path):
    self._file = file
    self._partial = file.with_name(f'{uuid.uuid4().hex}.part')
    self._stream = open(self._partial, 'wb')

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    self._stream.close()
    if kind is None:
      os.replace(self._partial, self._file)

  def write(self, data):
    """Adds bytes."""
    return self._stream.write(data)


if __name__ == '__main__':  # FOLDER COMMAND...: jaxgen with such a bucket
  register(sys.argv[1])
  from jaxgen import cli
  sys.exit(cli.main(sys.argv[2:]))
