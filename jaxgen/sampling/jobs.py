"""Requests from flags and job files, and what was drawn as PNG files and ``results.json``."""

import contextlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.image_files import to_png
from jaxgen.core.limits import MAX_SIDE
from jaxgen.core.texts import parsed
from jaxgen.data.sample import FileImage
from jaxgen.sampling import imontage_jobs
from jaxgen.sampling.generate import Images
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import make_request

RESULTS = 'results.json'
_UNDER_WAY = '.images.json'  # beside it: names all images, old and new, while they are written
_IMAGE = re.compile(r'\d{4,}(_\d+)?\.png')  # as save_results names them
GIVEN = ('source', 'reference', 'context')
# Field of a request -> (types of its value, what it must be).
_KINDS = {
    'prompt': ((str, type(None)), 'a string'),
    **dict.fromkeys(GIVEN, ((str, list), 'a path or a list of paths')),
    'size': ((str, int, list), 'one number, "HEIGHTxWIDTH" or [height, width]'),
    'outputs': ((int,), 'a whole number'),
    'task': ((str,), 'the name of a task'),
    'seed': ((int,), 'a whole number'),
    'guidance': ((int, float), 'a number'),
    'image_guidance': ((int, float), 'a number'),
    'name': ((str,), 'a string'),
}


def parse_size(text: str, where: str = '--size') -> tuple[int, int] | None:
  """``512`` or ``HEIGHTxWIDTH`` as (height, width); None for the empty text.

  Raises:
    UserError: anything else.
  """
  if not text:
    return None
  sides = text.lower().split('x')
  if len(sides) > 2 or not all(side.isdecimal() for side in sides):
    raise user_error(where, text, 'write one number, or HEIGHTxWIDTH, as 512x768')
  return _checked_size([int(sides[0]), int(sides[-1])], text, where)


def read_job(file: str, config: ConfigDict, *, factor: int = 1, flag: str = '--job',
             **defaults: Any) -> list[Request]:
  """The requests of a job file.

  Ours is a JSON list of objects: ``prompt``, ``source``, ``reference`` and ``context`` (a path or a
  list of paths), ``size``, ``outputs``, ``task``, ``seed``, ``guidance``, ``image_guidance`` and
  ``name``. iMontage's is an object of numbered objects with ``task_type``, ``prompts``, ``images``,
  ``height``, ``width`` and ``output_num`` (DATASETS, section 6). Paths are relative to the file; in
  iMontage's, where there is no such file, to the current folder.

  Args:
    file: JSON.
    config: of the run.
    factor: pixels along a latent token. Sizes of iMontage's files are rounded up to multiples of
      it, as the release does, and a line on stderr says so.
    flag: that names the file, for errors.
    **defaults: fields of requests that do not give them: ``seed``, ``guidance``, ...

  Raises:
    UserError: no such file, no JSON, an unknown field or one of a wrong kind, an image or a number
      of images that its task cannot use, or a list of other length than the outputs; with its
      entry.
  """
  path = existing_file(file, flag)
  job = parsed(path.read_bytes(), f'{flag} = {file!r}')
  if not isinstance(job, list | dict) or not job:
    raise user_error(flag, file, 'must be a JSON list of one or more requests')
  requests = []
  for number, key in enumerate(job if isinstance(job, dict) else range(len(job))):
    where, entry = f'{file}[{json.dumps(key)}]', job[key]
    if not isinstance(entry, dict):
      raise user_error(where, entry, 'each request must be a JSON object')
    names = imontage_jobs.NAMES if isinstance(job, dict) else {}
    entry = imontage_jobs.translated(entry, where) if names else entry
    values = _checked(entry, names, where, path.parent)
    if names and values.get('size'):
      values['size'] = imontage_jobs.fitted(values['size'], factor, where)
    requests.append(make_request(config, values.pop('prompt', None), number=number, origin=where,
                                 whole=bool(names), **{**defaults, **values}))
  return requests


def save_results(requests: Sequence[Request], images: Sequence[Images], folder: str) -> list[str]:
  """Writes every image as a PNG file and ``results.json``, which says what it is.

  Files are ``0000.png``, or ``0000_0.png``, ``0000_1.png``, ... where a request has several
  outputs. Images that an earlier ``results.json`` of the folder names, and this one does not, are
  removed, so that none of an earlier call is taken for one of this. There is a ``results.json``
  only while all of its images are there: a call that is killed leaves none, and the next one
  removes its images too.

  Returns:
    The paths of the images.

  Raises:
    UserError: they cannot be written.
  """
  root = epath.Path(folder)
  results, drawn = [], {}
  for number, (request, outputs) in enumerate(zip(requests, images, strict=True)):
    names = ([f'{number:04d}.png'] if len(outputs) == 1 else
             [f'{number:04d}_{output}.png' for output in range(len(outputs))])
    drawn |= zip(names, outputs)
    results.append(dict(
        name=request.sample.id, task=request.sample.task, files=names, seed=request.seed,
        number=request.number, scales=dict(request.scales),
        sizes=[list(image.shape[:2]) for image in outputs],
        parts=[_described(part) for part in request.sample.parts if not part.is_target]))
  earlier = _earlier(root / RESULTS) | _earlier(root / _UNDER_WAY)
  write_text(root / _UNDER_WAY, json.dumps([dict(files=sorted(earlier | set(drawn)))]))
  (root / RESULTS).unlink(missing_ok=True)
  for name, image in drawn.items():
    write_bytes(root / name, to_png(image))
  for name in earlier - set(drawn):
    (root / name).unlink(missing_ok=True)
  write_text(root / RESULTS, json.dumps(results, indent=2, ensure_ascii=False))
  (root / _UNDER_WAY).unlink()
  return [str(root / name) for name in drawn]


def read_results(folder: epath.PathLike) -> list[dict[str, Any]]:
  """The entries of a folder of ``save_results``, whose ``files`` are whole paths.

  Raises:
    UserError: its ``results.json`` is damaged.
  """
  file = epath.Path(folder) / RESULTS
  entries = parsed(file.read_bytes(), str(file))
  try:
    return [dict(entry, name=str(entry['name']),
                 files=[str(file.parent / name) for name in entry['files']]) for entry in entries]
  except (TypeError, KeyError, ValueError):
    raise user_error(str(file), None, 'is no list of drawn images; remove its folder') from None


def progress(verb: str = 'drawn'):
  """A function that shows on one line how many requests are done and how long the rest takes."""
  began = time.monotonic()

  def show(done: int, total: int) -> None:
    left = (time.monotonic() - began) * (total - done) / max(done, 1)
    print(f'\r{verb} {done}/{total}  {left:.0f} s left ', end='\n' if done == total else '',
          file=sys.stderr, flush=True)

  return show


def existing(path: str, where: str) -> FileImage:
  """An image file of a request.

  Raises:
    UserError: there is none, or it is a folder.
  """
  return FileImage(str(existing_file(path, where)))


def existing_file(path: str, where: str) -> epath.Path:
  """A file that a flag or a request names.

  Raises:
    UserError: there is none, or it is a folder.
  """
  file = epath.Path(path)
  try:
    found, folder = file.exists(), file.is_dir()
  except (OSError, ValueError):  # a name that no file can have
    found = folder = False
  if not found or folder:
    raise user_error(where, path, 'is a folder; name a file' if folder else 'no such file')
  return file


def _earlier(file: epath.Path) -> set[str]:
  """The images that a ``results.json`` names, as ``save_results`` names them."""
  if not file.exists():
    return set()
  with contextlib.suppress(ValueError, TypeError, KeyError, OSError):
    return {name for result in json.loads(file.read_bytes()) for name in result['files']
            if _IMAGE.fullmatch(name)}
  return set()


def _checked(entry: Mapping[str, Any], names: Mapping[str, str], where: str, folder: epath.Path
             ) -> dict[str, Any]:
  """The fields of an entry as arguments of ``make_request``.

  Args:
    entry: ours.
    names: our field -> its name in the file, where they differ.
    where: file and entry, for errors.
    folder: that paths are relative to.
  """
  values = {}
  for field, value in entry.items():
    if field not in _KINDS:
      raise user_error(f'{where}.{field}', value, f'no such field; known: {", ".join(_KINDS)}')
    shown, (types, kind) = f'{where}.{names.get(field, field)}', _KINDS[field]
    if not isinstance(value, types) or isinstance(value, bool):
      raise user_error(shown, value, f'must be {kind}')
    if field in GIVEN:
      listed = [value] if isinstance(value, str) else value
      if not all(isinstance(item, str) for item in listed):
        raise user_error(shown, value, f'must be {kind}')
      value = [existing(_placed(item, folder, bool(names)), shown) for item in listed]
    elif field == 'size':
      value = (_checked_size(value, value, shown) if isinstance(value, list) else
               parse_size(str(value), shown))
    values[field] = value
  return values


def _checked_size(sides: Sequence[Any], value: Any, where: str) -> tuple[int, int]:
  # ``generate`` says which multiples a system can draw.
  if len(sides) != 2 or not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides):
    raise user_error(where, value, f'sides are whole numbers from 1 to {MAX_SIDE}')
  return sides[0], sides[1]


def _placed(path: str, folder: epath.Path, elsewhere: bool) -> str:
  """The path from a job file's folder, or (``elsewhere``) from here if there is none."""
  beside = folder / path
  with contextlib.suppress(OSError, ValueError):
    if elsewhere and not beside.exists() and epath.Path(path).exists():
      return path
  return str(beside)


def _described(part) -> dict[str, Any]:
  if not part.is_image:
    return {'role': part.role, 'text': part.text}
  path = part.image.path if isinstance(part.image, FileImage) else None
  return {'role': part.role, 'image': path}
