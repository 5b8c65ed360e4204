"""Requests from flags and job files, and what was drawn as PNG files and ``results.json``."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.data.sample import FileImage
from jaxgen.sampling.generate import Images
from jaxgen.sampling.images import to_png
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import make_request

RESULTS = 'results.json'
GIVEN = ('source', 'reference', 'context')
FIELDS = ('prompt', *GIVEN, 'size', 'outputs', 'task', 'seed', 'guidance', 'image_guidance', 'name')
# iMontage's job files: the images of these tasks are edited, those of the others are references.
IMONTAGE_EDITS = ('image_editing', 'multiview')


def parse_size(text: str, where: str = '--size') -> tuple[int, int] | None:
  """``512`` or ``HEIGHTxWIDTH`` as (height, width); None for the empty text.

  Raises:
    UserError: anything else.
  """
  if not text:
    return None
  sides = text.lower().split('x')
  if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
    raise user_error(where, text, 'write one number, or HEIGHTxWIDTH, as 512x768')
  return int(sides[0]), int(sides[-1])


def read_job(file: str, config: ConfigDict, **defaults: Any) -> list[Request]:
  """The requests of a job file.

  Ours is a JSON list of objects with the fields of ``FIELDS``; images are paths, relative to the
  file. iMontage's is an object of numbered objects with ``task_type``, ``prompts``, ``images``,
  ``height``, ``width`` and ``output_num`` (DATASETS, section 6).

  Args:
    file: JSON.
    config: of the run.
    **defaults: fields of requests that do not give them: ``seed``, ``guidance``, ...

  Raises:
    UserError: no such file, no JSON, an unknown field or one of a wrong kind, with its entry.
  """
  path = epath.Path(file)
  if not path.exists():
    raise user_error('--job', file, 'no such file')
  try:
    job = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise user_error('--job', file, f'is not JSON: {error}') from None
  if isinstance(job, dict):
    entries = [_from_imontage(entry, f'{file}: "{key}"') for key, entry in job.items()]
  else:
    entries = job
  if not isinstance(entries, list) or not entries:
    raise user_error('--job', file, 'must be a JSON list of one or more requests')
  return [_request(entry, f'{file}[{number}]', number, path.parent, config, defaults)
          for number, entry in enumerate(entries)]


def save_results(requests: Sequence[Request], images: Sequence[Images], folder: str) -> list[str]:
  """Writes every image as a PNG file and ``results.json``, which says what it is.

  Files are ``0000.png``, or ``0000_0.png``, ``0000_1.png``, ... where a request has several
  outputs.

  Returns:
    The paths of the images.
  """
  root = epath.Path(folder)
  root.mkdir(parents=True, exist_ok=True)
  paths, results = [], []
  for number, (request, outputs) in enumerate(zip(requests, images, strict=True)):
    names = ([f'{number:04d}.png'] if len(outputs) == 1 else
             [f'{number:04d}_{output}.png' for output in range(len(outputs))])
    for name, image in zip(names, outputs):
      (root / name).write_bytes(to_png(image))
      paths.append(str(root / name))
    results.append(dict(
        name=request.sample.id, task=request.sample.task, files=names, seed=request.seed,
        number=request.number, scales=dict(request.scales),
        sizes=[list(image.shape[:2]) for image in outputs],
        parts=[_described(part) for part in request.sample.parts if not part.is_target]))
  (root / RESULTS).write_text(json.dumps(results, indent=2, ensure_ascii=False))
  return paths


def progress(verb: str = 'drawn'):
  """A function that shows on one line how many requests are done and how long the rest takes."""
  began = time.monotonic()

  def show(done: int, total: int) -> None:
    left = (time.monotonic() - began) * (total - done) / max(done, 1)
    print(f'\r{verb} {done}/{total}  {left:.0f} s left ', end='\n' if done == total else '',
          file=sys.stderr, flush=True)

  return show


def _request(entry: Any, where: str, number: int, folder: epath.Path, config: ConfigDict,
             defaults: Mapping[str, Any]) -> Request:
  if not isinstance(entry, dict):
    raise user_error(where, entry, 'each request must be a JSON object')
  unknown = sorted(entry.keys() - set(FIELDS))
  if unknown:
    raise user_error(f'{where}.{unknown[0]}', entry[unknown[0]],
                     f'no such field; known: {", ".join(FIELDS)}')
  values = dict(defaults) | {name: value for name, value in entry.items()
                             if name not in ('prompt', *GIVEN)}
  if isinstance(values.get('size'), str | int):
    values['size'] = parse_size(str(values['size']), f'{where}.size')
  given = {}
  for role in GIVEN:
    listed = entry.get(role, [])
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
      raise user_error(f'{where}.{role}', listed, 'must be a path or a list of paths')
    given[role] = [existing(str(folder / item), f'{where}.{role}') for item in listed]
  prompt = entry.get('prompt')
  if prompt is not None and not isinstance(prompt, str):
    raise user_error(f'{where}.prompt', prompt, 'must be a string')
  return make_request(config, prompt, number=number, **given, **values)


def existing(path: str, where: str) -> FileImage:
  """An image file of a request.

  Raises:
    UserError: there is none.
  """
  if not epath.Path(path).exists():
    raise user_error(where, path, 'no such file')
  return FileImage(path)


def _from_imontage(entry: Any, where: str) -> dict[str, Any]:
  """One numbered object of iMontage's job files as one of ours."""
  try:
    prompts, task = entry['prompts'], entry['task_type']
    prompt = prompts if isinstance(prompts, str) else '\n'.join(prompts)
    role = 'source' if task in IMONTAGE_EDITS else 'reference'
    return {'prompt': prompt, role: list(entry.get('images', [])), 'name': where,
            'size': [int(entry['height']), int(entry['width'])],
            'outputs': int(entry.get('output_num', 1))}
  except (KeyError, TypeError, ValueError) as error:
    raise user_error(where, None, 'must have task_type, prompts, images, height, width and '
                     f'output_num ({type(error).__name__}: {error})') from None


def _described(part) -> dict[str, Any]:
  if not part.is_image:
    return {'role': part.role, 'text': part.text}
  path = part.image.path if isinstance(part.image, FileImage) else None
  return {'role': part.role, 'image': path}
