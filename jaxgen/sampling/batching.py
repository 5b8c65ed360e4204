"""Requests to batches: every branch through the example maker and the packer of training."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.core.types import Layout
from jaxgen.data.decode import DecodeError
from jaxgen.data.example import Example
from jaxgen.data.example import LatentImage
from jaxgen.data.example import Size
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.sampling.guidance import Branches
from jaxgen.sampling.request import Request
from jaxgen.systems.base import System

WORDS, TOKENS = 32, 16  # prompt and latent tokens of a row are multiples of these
SEGMENTS = 8  # requests that share a row at the most
FINENESS = 8  # row sizes between one power of two and the next


class Drawn(NamedTuple):
  """Where an image of a request comes out.

  Attributes:
    request: its number within the batch.
    row, start: its first token among the solved ones of a row.
    grid: (h, w) of its latent tokens.
  """

  request: int
  row: int
  start: int
  grid: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class RequestBatch:
  """Requests that are drawn together, in R rows of K branches each.

  Attributes:
    branches: numpy; clean latents are zeros until ``given`` are encoded.
    seeds: u32[R, M], of the image that each solved token belongs to.
    numbers, outputs: i32[R, M], of that image: the number of its request and its own one among the
      outputs.
    images: i32[R, M], number of that image within its row from 1 on, 0 = absent.
    given: size -> (uint8[n, H, W, 3], i32[n] first token of each in the R K rows one after
      another).
    drawn: every image that comes out, the outputs of a request in their order.
  """

  branches: Branches
  seeds: np.ndarray
  numbers: np.ndarray
  outputs: np.ndarray
  images: np.ndarray
  given: dict[Size, tuple[np.ndarray, np.ndarray]]
  drawn: list[Drawn]


def plan(requests: Sequence[Request], system: System, maker: ExampleMaker, rows: int,
         shifts: Sequence[float]) -> list[list[int]]:
  """Chooses which requests are drawn together: those of one shift, alike ones, the largest first.

  Every request is prepared once for it, so that whatever is wrong with one is said before
  anything is drawn.

  Args:
    requests: in any order.
    system: says its branches.
    maker: of the run.
    rows: requests of a batch at the most.
    shifts: the timestep shift of each request.

  Returns:
    Numbers of the requests of each batch.

  Raises:
    UserError: an image that cannot be read, a prompt longer than ``data.prompt_tokens``, or a size
      that is no multiple of a latent token.
  """
  shape = maker.row_shape(sees=False)

  def need(request: Request) -> tuple[int, ...]:
    needs = [shape.needs(example) for example in _weighted(request, system, maker).examples]
    return (len(needs), *(max(each[name] for each in needs)
                          for name in ('visual tokens', 'patches', 'prompt tokens')))

  needs = [need(request) for request in requests]
  order = sorted(range(len(requests)), key=lambda index: needs[index], reverse=True)
  kinds = [[index for index in order if shifts[index] == shift]
           for shift in dict.fromkeys(shifts[index] for index in order)]
  return [kind[start:start + rows] for kind in kinds for start in range(0, len(kind), rows)]


def make_batch(requests: Sequence[Request], system: System, maker: ExampleMaker, rows: int,
               ways: int) -> RequestBatch:
  """Packs requests with all their branches; small ones share a row.

  Sizes are rounded up, so that few programs are compiled however requests differ.

  Args:
    requests: of one batch of ``plan``.
    system, maker, rows: as there.
    ways: devices that rows are spread over, of which R and ``rows`` are multiples.

  Raises:
    UserError: as ``plan``.
  """
  weighted = [_weighted(request, system, maker) for request in requests]
  count = max(len(own.weights) for own in weighted)
  # A request without the last branches repeats its first one, with weight 0.
  weighted = [own.padded(count) for own in weighted]
  shape = _row_shape([example for own in weighted for example in own.examples],
                     maker.row_shape(sees=False), system.layout)
  placed = _place([own.examples for own in weighted], shape)
  shape = dataclasses.replace(shape, segments=_power_of_two(max(map(len, placed))))
  filled = min(rows, ways * _power_of_two(math.ceil(len(placed) / ways)))
  placed += [[]] * (filled - len(placed))
  loaded = pack([[weighted[index].examples[k] for index in members]
                 for members in placed for k in range(count)], shape, maker.pad)
  tokens = (len(placed), shape.visual_tokens)
  result = RequestBatch(
      Branches(loaded.batch, *(np.zeros((len(placed), count, tokens[1]), dtype)
                               for dtype in (np.int32, np.int32, np.float32)),
               np.zeros((len(loaded.batch.meta.rows), shape.segments), np.float32)),
      np.zeros(tokens, np.uint32), *(np.zeros(tokens, np.int32) for _ in range(3)),
      loaded.images, [])
  for row, members in enumerate(placed):
    _fill_row(result, row, members, requests, weighted, system.layout)
  return result


class _Weighted(NamedTuple):
  """The branches of a request."""

  weights: list[float]
  examples: list[Example]

  @property
  def targets(self) -> list[LatentImage]:
    return [image for image in self.examples[0].images if image.is_target]

  def padded(self, count: int) -> '_Weighted':
    more = count - len(self.weights)
    return _Weighted(self.weights + [0.0] * more, self.examples + self.examples[:1] * more)


def _weighted(request: Request, system: System, maker: ExampleMaker) -> _Weighted:
  branches, fitted = system.branches(request.sample, request.scales), {}
  try:
    return _Weighted([weight for weight, _ in branches],
                     [maker(sample, kept=fitted) for _, sample in branches])
  except DecodeError as error:
    raise user_error(request.sample.origin, None, f'an image cannot be read: {error}') from None


def _row_shape(examples: Sequence[Example], base: RowShape, layout: Layout) -> RowShape:
  """The least row that holds each of the examples, rounded up."""
  needs = [base.needs(example) for example in examples]
  square = layout.vision and layout.vision.kind == 'square'
  image = (layout.vision.size // layout.vision.patch)**2 if square else base.merge**2

  def most(name, unit):
    return _rounded(max(need[name] for need in needs), unit)

  return dataclasses.replace(
      base, segments=SEGMENTS, visual_tokens=most('visual tokens', TOKENS),
      prompt_tokens=most('prompt tokens', WORDS), patches=most('patches', image))


def _rounded(amount: int, unit: int) -> int:
  """The next multiple of the unit, or of several units where the amount is large: at most an eighth
  more."""
  units = math.ceil(amount / unit)
  step = max(1, _power_of_two(units + 1) // 2 // FINENESS)
  return math.ceil(units / step) * step * unit


def _power_of_two(amount: int) -> int:
  """The least power of two that is not below the amount."""
  return 1 << max(amount - 1, 0).bit_length()


def _place(examples: Sequence[Sequence[Example]], shape: RowShape) -> list[list[int]]:
  """Which requests share a row: each in the first one where all of its branches fit."""
  rows: list[tuple[list[int], list[Row]]] = []
  for index, branches in enumerate(examples):
    for members, filling in rows:
      if all(row.fits(example) for row, example in zip(filling, branches, strict=True)):
        break
    else:
      members, filling = [], [Row(shape) for _ in branches]
      rows.append((members, filling))
    members.append(index)
    for row, example in zip(filling, branches, strict=True):
      row.add(example)
  return [members for members, _ in rows]


def _fill_row(result: RequestBatch, row: int, members: Sequence[int], requests: Sequence[Request],
              weighted: Sequence[_Weighted], layout: Layout) -> None:
  """Writes the indices, weights and keys of one row of requests."""
  branches, factor = result.branches, layout.latent.factor
  visual, count = branches.batch.visual, branches.weights.shape[1]
  start = image = 0
  for segment, index in enumerate(members, start=1):
    request, first = requests[index], start
    for output, target in enumerate(weighted[index].targets):
      image += 1
      where = (row, slice(start, start + len(target.positions)))
      result.seeds[where], result.numbers[where] = request.seed, request.number
      result.outputs[where], result.images[where] = output, image
      grid = (target.size[0] // factor, target.size[1] // factor)
      result.drawn.append(Drawn(index, row, start, grid))
      start += len(target.positions)
    for k in range(count):
      own = row * count + k
      branches.scales[own, segment - 1] = request.scales['text']
      places = np.flatnonzero((visual.segments[own] == segment) & visual.is_target[own])
      branches.token_of[row, k, first:start] = places
      branches.target_of[row, k, places] = np.arange(first, start)
      branches.weights[row, k, first:start] = weighted[index].weights[k]
