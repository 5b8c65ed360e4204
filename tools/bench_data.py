"""Times the path from records to packed batches against PyTorch's DataLoader, side by side.

Photographs are enlarged to 12 megapixels and written as ArrayRecord, WebDataset tar and Parquet
into a temporary folder. Our loader reads each; DataLoader reads plain JPEG files with PIL, and has
as many processes as our loader has threads. Both decode, fit to a square, tokenise the captions and
make batches; they take turns, so that a busy machine slows both alike:

  python tools/bench_data.py
  python tools/bench_data.py --task=image --workers=8 --images=256 --rows=16

PIL decodes in full, as DataLoader is mostly used. A second row lets it decode at reduced scale
(``Image.draft``) as jaxgen does, so that what remains is the difference of the loaders.

jaxgen keeps the decoded images of small data sets; here it keeps none, as of large ones. Files are
read from the page cache. Decoding's share of the time is taken in one thread: the seconds in which
it decodes and fits the images, over those in which it makes packed batches of them.
"""

import argparse
import dataclasses
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator

import torch_photos
from ml_collections import ConfigDict
from photo_set import FORMATS
from photo_set import PhotoSet
from photo_set import write_photo_set
from timing import machine

from jaxgen.config import base_config
from jaxgen.config import source
from jaxgen.core.types import Latent
from jaxgen.core.types import Layout
from jaxgen.core.types import Vision
from jaxgen.data import images
from jaxgen.data import sequences
from jaxgen.data.decode import read_picture
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.loader import make_loader
from jaxgen.data.packing import pack
from jaxgen.data.vision import make_vision

PIXELS = 12e6
FACTOR = 16  # pixels along one side of a latent token
VISION = Vision('square', patch=14, merge=2, size=448)
PROMPT = {'pair': 128, 'image': 512}  # tokens of one sample at the most
PLAIN, DRAFT = 'torch, PIL', 'torch, PIL with draft'


@dataclasses.dataclass(frozen=True)
class Turn:
  """What the batches of one turn took.

  Attributes:
    rate: images/s.
    per_core: images in a second of one core, by the processor time of all threads and processes.
  """

  rate: float
  per_core: float


def main() -> None:
  """Prints a row for each format and for PyTorch with and without reduced scale."""
  flags = parse_flags()
  sequences.KEPT_BYTES = 0
  with tempfile.TemporaryDirectory() as folder:
    photos = write_photo_set(flags.photos, pathlib.Path(folder), flags.images, PIXELS)
    print(f'{machine()}, {flags.workers} workers, {flags.images} photographs of '
          f'{PIXELS / 1e6:.0f} MP ({photos.megabytes:.1f} MB each) to {flags.size} px, task '
          f'{flags.task}, batches of {batch_size(flags)}, medians of {flags.repeats}', flush=True)
    configs = {kind: make_config(photos, kind, flags) for kind in FORMATS}
    sides = {kind: our_turns(config, flags) for kind, config in configs.items()}
    sides |= {name: torch_turns(photos, flags, draft) for name, draft in (
        (PLAIN, False), (DRAFT, True))}
    turns = {name: [] for name in sides}
    for _ in range(flags.repeats):
      for name, take in sides.items():
        turns[name].append(take())
    shares = {kind: decoding_share(config, flags) for kind, config in configs.items()}
  report(turns, shares)


def parse_flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  repository = pathlib.Path(__file__).resolve().parents[1]
  parser.add_argument('--photos', type=pathlib.Path, default=repository / '../shared/data/photos',
                      help='a folder with photos.jsonl')
  cores = len(os.sched_getaffinity(0))
  for name, default, text in (
      ('images', 48, 'photographs of the data set'), ('size', 512, 'side of the fitted squares'),
      ('workers', cores, 'our threads, and processes of DataLoader'),
      ('rows', 2 * cores, 'rows of a batch'), ('segments', 2, 'photographs of a row'),
      ('batches', 4, 'timed in each turn'), ('repeats', 5, 'turns of each side')):
    parser.add_argument(f'--{name}', type=int, default=default, help=text)
  parser.add_argument('--task', choices=('pair', 'image'), default='pair',
                      help='image: the language model sees the photograph too')
  flags = parser.parse_args()
  # DataLoader's batches come in bursts of one from each worker.
  flags.batches = -(-flags.batches // flags.workers) * flags.workers
  return flags


def batch_size(flags: argparse.Namespace) -> int:
  """Photographs of a batch."""
  return flags.rows * flags.segments


def make_config(photos: PhotoSet, kind: str, flags: argparse.Namespace) -> ConfigDict:
  """Full rows of squares with their captions."""
  config = base_config()
  config.data.sources.photos = source(kind, flags.task, path=photos.paths[kind])
  config.data.update(
      tokenizer=photos.tokenizer, image_size=flags.size, segments_per_row=flags.segments,
      vision_size=VISION.size, visual_tokens=flags.segments * (flags.size // FACTOR)**2,
      prompt_tokens=flags.segments * PROMPT[flags.task], threads=flags.workers,
      dropout=dict(all=0.0))
  config.train.rows = flags.rows
  return config


def make_layout(flags: argparse.Namespace) -> Layout:
  return Layout(Latent(FACTOR, 64), vision=VISION if flags.task == 'image' else None)


def our_turns(config: ConfigDict, flags: argparse.Namespace) -> Callable[[], Turn]:
  """A function that takes a turn with a loader of its own, so that none works between turns."""

  def take() -> Turn:
    loader = make_loader(config, make_layout(flags))
    try:
      return timed(loader, flags)
    finally:
      loader.close()

  return take


def torch_turns(photos: PhotoSet, flags: argparse.Namespace, draft: bool) -> Callable[[], Turn]:
  """A function that takes a turn with one epoch; behind its end the workers rest."""
  dataset = torch_photos.Photos(
      photos.files, photos.captions, f'{photos.tokenizer}/tokenizer.json', flags.size,
      VISION.size if flags.task == 'image' else 0, PROMPT['pair'], draft)
  # As many batches are on their way when the last timed one comes as when the first did.
  behind = torch_photos.PREFETCH * flags.workers
  batches = torch_photos.Batches(dataset, batch_size(flags),
                                 flags.workers + flags.batches + behind, flags.workers)

  def take() -> Turn:
    iterator = iter(batches)
    turn = timed(iterator, flags)
    for _ in iterator:
      pass
    return turn

  return take


def timed(batches: Iterator, flags: argparse.Namespace) -> Turn:
  """Times batches after those that start the pipeline."""
  for _ in range(flags.workers):
    next(batches)
  start, busy = time.perf_counter(), core_seconds()
  for _ in range(flags.batches):
    next(batches)
  count = flags.batches * batch_size(flags)
  return Turn(count / (time.perf_counter() - start), count / (core_seconds() - busy))


def core_seconds() -> float:
  """Processor time of this process and of its children, which still run."""
  total, ticks = time.process_time(), os.sysconf('SC_CLK_TCK')
  for child in multiprocessing.active_children():
    numbers = pathlib.Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
    total += (int(numbers[11]) + int(numbers[12])) / ticks  # user and system
  return total


def decoding_share(config: ConfigDict, flags: argparse.Namespace) -> float:
  """The share of a single thread's time in which it decodes and fits images."""
  maker = ExampleMaker.of(config, make_layout(flags))
  sequence, = sequences.open_sequences(config, ['photos'], maker)
  opened = sequences.open_spec(config.data.sources.photos, config, '--photos')
  count, shape = min(batch_size(flags), len(sequence)), maker.row_shape()
  files = [opened[sequence.record(position)].images[0].image for position in range(count)]
  vision = make_vision(VISION) if flags.task == 'image' else None

  def whole():
    examples = [sequence[position] for position in range(count)]
    pack([examples[start:start + flags.segments] for start in range(0, count, flags.segments)],
         shape, maker.pad)

  def alone():
    for file in files:
      fit(file, flags.size, vision)

  shares = []
  for _ in range(flags.repeats):
    shares.append(seconds(alone) / seconds(whole))
  return statistics.median(shares)


def fit(file: bytes, side: int, vision) -> None:
  """Decodes an image once and brings it to what its uses need."""
  least = max(side, vision.side) if vision else side
  image = read_picture(file, (least, least))
  images.fit_image(image, (side, side))
  if vision:
    vision.resize(image, (vision.side, vision.side))


def seconds(call: Callable[[], None]) -> float:
  """Processor time of a call."""
  start = time.process_time()
  call()
  return time.process_time() - start


def report(turns: dict[str, list[Turn]], shares: dict[str, float]) -> None:
  """The table; ratios are medians of those of each repetition."""
  print('| records | images/s | images/s per core | to torch | to torch with draft '
        '| decoding and fitting |')
  print('|---|---|---|---|---|---|')
  for name, taken in turns.items():
    ratios = [statistics.median(own.rate / other.rate for own, other in zip(taken, turns[side]))
              for side in (PLAIN, DRAFT)]
    share = f'{100 * shares[name]:.0f} %' if name in shares else ''
    print(f'| {name} | {statistics.median(turn.rate for turn in taken):.1f} '
          f'| {statistics.median(turn.per_core for turn in taken):.1f} '
          f'| {ratios[0]:.2f} | {ratios[1]:.2f} | {share} |')


if __name__ == '__main__':
  main()
