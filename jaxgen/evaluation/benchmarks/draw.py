"""Draws a benchmark into the folders and files that its official scorer reads.

Every image is drawn once: what is there already is left alone, so that drawing goes on where it
was killed, and several processes share the work. ``drawn.json`` says how it was drawn; a folder of
other settings is refused.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.image_files import to_jpeg
from jaxgen.core.image_files import to_png
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import encoded
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.evaluation.benchmarks.base import Benchmark
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.interleaved import document_files
from jaxgen.evaluation.benchmarks.interleaved import image_name
from jaxgen.evaluation.benchmarks.interleaved import PARTS
from jaxgen.sampling.batching import plan
from jaxgen.sampling.interleaved import check
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import Options
from jaxgen.sampling.load import Run
from jaxgen.sampling.reading import check_writes
from jaxgen.sampling.request import check_fits
from jaxgen.sampling.request import make_request
from jaxgen.sampling.request import Request
from jaxgen.systems.registry import make_system

FOUND = ('leaks',)  # fields of the record that are no settings
RECORD, LIST = 'drawn.json', 'items.json'
BATCHES = 8  # batches between two times of writing images; a killed process loses no more


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a benchmark is drawn.

  Attributes:
    seed: of the noise.
    steps: of the solver; 0 takes the config's.
    size: (height, width); None takes the config's, or the bucket nearest to the source.
    guidance, image_guidance: scales; None takes the config's.
  """

  seed: int = 0
  steps: int = 0
  size: tuple[int, int] | None = None
  guidance: float | None = None
  image_guidance: float | None = None


def numbered(items: Sequence[Item], limit: int = 0) -> list[tuple[int, Item]]:
  """The first ``limit`` items of each group (0 is all), each with its place among all items.

  The place is part of the key of its noise, so that a slice has the images of the whole.
  """
  taken: dict[str, int] = {}
  found = []
  for number, item in enumerate(items):
    taken[item.group] = taken.get(item.group, 0) + 1
    if not limit or taken[item.group] <= limit:
      found.append((number, item))
  return found


def check_files(items: Sequence[Item]) -> None:
  """Raises a ``UserError`` for a file outside of the results, or one of two items.

  Names of files are made of what a benchmark's tables say.
  """
  seen: set[str] = set()
  for item in items:
    for name in (*item.files, *item.beside, item.key):
      if name.startswith('/') or '..' in name.split('/'):
        raise user_error(item.key, name, 'is no name of a file within the results; is this the '
                         'file of this benchmark?')
    for name in item.files or (item.key,):
      if name in seen:
        raise user_error(item.key, name, 'is the file of two items; is this the file of this '
                         'benchmark?')
      seen.add(name)


def requests_of(config: ConfigDict, item: Item, number: int, settings: Settings) -> list[Request]:
  """One request for each time that an item is drawn."""
  return [make_request(
      config, item.wording or item.text, size=settings.size, source=item.source,
      reference=item.reference, outputs=item.outputs, seed=settings.seed,
      number=number * item.draws + draw, guidance=settings.guidance,
      image_guidance=settings.image_guidance, name=item.key, origin=item.key)
          for draw in range(item.draws)]


def check_drawable(config: ConfigDict, items: Sequence[tuple[int, Item]], settings: Settings,
                   options: Options | None) -> None:
  """Raises a ``UserError`` for an item that a run cannot draw; needs no parameters.

  What its images take in a row is found out when they are read, batch by batch.

  Args:
    config: of the run.
    items: of ``numbered``.
    settings: how they are drawn.
    options: of the answers, where the items are documents.
  """
  system = make_system(config)
  maker = ExampleMaker.of(config, system.layout)
  if options:
    check_writes(system, config)
    check(system, [dialogue_of(item, number, settings) for number, item in items], maker, config,
          options)
    return
  requests = [requests_of(config, item, number, settings)[0] for number, item in items]
  check_fits(requests, system.layout, config.data.clean_roles)
  texts = [request for request in requests
           if len(request.sample.images) == len(request.sample.targets)]
  plan(texts, system, maker, config.sampling.rows, [0.0] * len(texts))


def draw(run: Run, items: Sequence[tuple[int, Item]], folder: str, settings: Settings, *,
         share: tuple[int, int] = (0, 1),
         progress: Callable[[int, int], None] = lambda done, total: None) -> int:
  """Draws the images of the items that are not there yet.

  Args:
    run: that draws.
    items: of ``numbered``.
    folder: of the results.
    settings: how.
    share: (process, processes) that split the items among them.
    progress: called with (images written, images in all) after each write.

  Returns:
    The number of requests drawn.

  Raises:
    UserError: an item that the run cannot draw, before anything is drawn of its batch.
  """
  root = epath.Path(folder)
  left = [(number, item, absent) for number, item in shared_out(items, share)
          if (absent := _absent(item, root))]
  chunk, done = [], 0
  total = sum(len(absent) for _, _, absent in left)
  for place, (number, item, absent) in enumerate(left, start=1):
    requests = requests_of(run.config, item, number, settings)
    chunk += [(item, draw, requests[draw]) for draw in absent]
    if len(chunk) >= BATCHES * run.config.sampling.rows or place == len(left):
      images = run.draw([request for _, _, request in chunk], steps=settings.steps)
      _write(root, [(item, draw, own) for (item, draw, _), own in zip(chunk, images, strict=True)])
      done, chunk = done + len(chunk), []
      progress(done, total)
  return done


def shared_out(items: Sequence[tuple[int, Item]], share: tuple[int, int]
               ) -> list[tuple[int, Item]]:
  """The items of ``numbered`` that process ``share[0]`` of ``share[1]`` draws."""
  return [(number, item) for number, item in items if number % share[1] == share[0]]


def dialogue_of(item: Item, number: int, settings: Settings) -> Dialogue:
  """What is to be answered: the images of an item, then its text."""
  text = item.wording or item.text
  parts = [Part(role, image=image) for role, images in (
      ('source', item.source), ('reference', item.reference)) for image in images]
  parts += [Part('user', text=text)] if text.strip() else []
  return Dialogue.of(Sample(item.key, tuple(parts), origin=item.key), seed=settings.seed,
                     number=number, size=settings.size)


def draw_documents(run: Run, benchmark: Benchmark, items: Sequence[tuple[int, Item]], folder: str,
                   settings: Settings, options: Options, *, share: tuple[int, int] = (0, 1),
                   progress: Callable[[int, int], None] = lambda done, total: None) -> int:
  """Draws the documents that are not there yet, many at once; each is written as soon as it ends.

  Args:
    run, items, folder, settings, share: as for ``draw``.
    benchmark: of the items.
    options: of the answers.
    progress: called with (documents written, documents in all) after each.

  Returns:
    The number of documents drawn.

  Raises:
    UserError: an item that the run cannot answer.
  """
  left = [(number, item) for number, item in shared_out(items, share)
          if not (epath.Path(folder) / item.key / PARTS).exists()]
  done = 0
  for event in run.converse([dialogue_of(item, number, settings) for number, item in left],
                            options) if left else ():
    if event.part is None:
      _, item = left[event.index]
      write_document(benchmark, item, folder, [
          part.image if part.is_image else part.text for part in event.dialogue.answer])
      done += 1
      progress(done, len(left))
  return done


def write_document(benchmark: Benchmark, item: Item, folder: str,
                   answer: Sequence[str | np.ndarray]) -> None:
  """Writes the document of an item, its texts and its images uint8[H, W, 3], as its benchmark has
  it. The file that says that it is done comes last."""
  root, parts = epath.Path(folder), []
  for part in answer:
    if not isinstance(part, str):
      count = sum(isinstance(other, int) for other in parts)
      _write_image(root / image_name(item, benchmark.name, count), part)
      part = count
    parts.append(part)
  files = document_files(item, benchmark.name, parts)
  for name in sorted(files, key=lambda name: name.endswith(PARTS)):
    write_text(root / name, files[name])


def write_beside(benchmark: Benchmark, items: Sequence[tuple[int, Item]], folder: str) -> None:
  """Writes what the official scorer reads beside the images, and ``items.json``, a list of them."""
  root = epath.Path(folder)
  for _, item in items:
    for name, content in item.beside.items():
      if isinstance(content, str):
        write_text(root / name, content)
      elif not (root / name).exists():
        write_bytes(root / name, _copied(content, name))
  write_text(root / LIST, json.dumps(dict(items=[
      dict(key=item.key, text=item.text, files=list(item.files),
           given=[image.path for image in (*item.source, *item.reference)])
      for _, item in items]), indent=1, ensure_ascii=False))
  if benchmark.index:
    for name, text in benchmark.index([item for _, item in items], folder).items():
      write_text(root / name, text)


def check_record(folder: str, record: Mapping[str, Any]) -> None:
  """Writes how the images of a folder are drawn, or compares it with what stands there.

  Raises:
    UserError: they were drawn otherwise.
  """
  file = epath.Path(folder) / RECORD
  text = json.dumps(record, indent=2, ensure_ascii=False)
  if not file.exists():
    write_text(file, text)
    return
  earlier = read_json(file, 'remove the folder, or choose another --out')
  for name, value in json.loads(text).items():
    if name not in FOUND and earlier.get(name) != value:
      raise user_error(str(file), None, f'its images are drawn with {name} = '
                       f'{earlier.get(name)!r}, and not {value!r}; choose another --out')


def _absent(item: Item, root: epath.Path) -> list[int]:
  """The numbers of the draws whose images are not all there."""
  if item.grid:
    return [] if (root / item.files[0]).exists() else list(range(item.draws))
  return [draw for draw in range(item.draws)
          if not all((root / file).exists() for file in _files(item, draw))]


def _files(item: Item, draw: int) -> tuple[str, ...]:
  return item.files[draw * item.outputs:(draw + 1) * item.outputs]


def _write(root: epath.Path, drawn: Sequence[tuple[Item, int, Sequence[np.ndarray]]]) -> None:
  grids: dict[str, list[np.ndarray]] = {}
  for item, number, images in drawn:
    if item.grid:
      own = grids.setdefault(item.files[0], [])
      own.extend(images)
      if len(own) == item.draws:
        rows = [np.concatenate(own[start:start + 2], 1) for start in (0, 2)]
        _write_image(root / item.files[0], np.concatenate(rows, 0))
      continue
    for file, image in zip(_files(item, number), images, strict=True):
      _write_image(root / file, image)


def _write_image(file: epath.Path, image: np.ndarray) -> None:
  write_bytes(file, to_png(image) if file.suffix == '.png' else to_jpeg(Image.fromarray(image)))


def _copied(image: FileImage, name: str) -> bytes:
  """The image as a file of the kind that the name asks for."""
  data = encoded(image)
  is_png = data.startswith(b'\x89PNG')
  if is_png == name.endswith('.png'):
    return data
  opened = Image.open(io.BytesIO(data)).convert('RGB')
  return to_png(np.asarray(opened)) if name.endswith('.png') else to_jpeg(opened)
