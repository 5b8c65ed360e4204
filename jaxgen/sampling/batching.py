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
from jaxgen.data.fitted import Fitted
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.sample import Sample
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
    segments: i32[R, M], number of its request within its row from 1 on, 0 = absent.
    given: size -> (uint8[n, H, W, 3], i32[n] first token of each in the R K rows one after
      another).
    drawn: every image that comes out, the outputs of a request in their order.
  """

  branches: Branches
  seeds: np.ndarray
  numbers: np.ndarray
  outputs: np.ndarray
  images: np.ndarray
  segments: np.ndarray
  given: dict[Size, tuple[np.ndarray, np.ndarray]]
  drawn: list[Drawn]

  @property
  def keys(self) -> tuple[np.ndarray, ...]:
    """What the noise of solved tokens is drawn by: seeds, numbers, outputs, images."""
    return self.seeds, self.numbers, self.outputs, self.images


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
    needs = [shape.needs(example) for example in weighted(request, system, maker).examples]
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
  found = [weighted(request, system, maker) for request in requests]
  count = max(len(own.weights) for own in found)
  # A request without the last branches repeats its first one, with weight 0.
  found = [own.padded(count) for own in found]
  shape = least_row([example for own in found for example in own.examples],
                    maker.row_shape(sees=False), system.layout)
  placed = place([own.examples for own in found], shape)
  shape = dataclasses.replace(shape, segments=power_of_two(max(map(len, placed))))
  filled = min(rows, rows_for(len(placed), ways))
  placed += [[]] * (filled - len(placed))
  return fill_batch(placed, requests, found, shape, maker.pad)


def fill_batch(placed: Sequence[Sequence[int]], requests: Sequence[Request],
               found: Sequence['Weighted'], shape: RowShape, pad: int) -> RequestBatch:
  """Writes requests that are known to fit into the arrays of a batch.

  Args:
    placed: numbers of the requests of each of the R rows.
    requests: of the batch.
    found: their branches, K of each.
    shape: the sizes of a row.
    pad: token id that fills prompts.
  """
  count = len(found[0].weights)
  loaded = pack([[found[index].examples[k] for index in members]
                 for members in placed for k in range(count)], shape, pad)
  tokens = (len(placed), shape.visual_tokens)
  result = RequestBatch(
      Branches(loaded.batch, *(np.zeros((len(placed), count, tokens[1]), dtype)
                               for dtype in (np.int32, np.int32, np.float32)),
               np.zeros((len(loaded.batch.meta.rows), shape.segments), np.float32)),
      np.zeros(tokens, np.uint32), *(np.zeros(tokens, np.int32) for _ in range(4)),
      loaded.images, [])
  for row, members in enumerate(placed):
    _fill_row(result, row, members, requests, found, shape.latent_factor)
  return result


class Weighted(NamedTuple):
  """The branches of a request.

  Attributes:
    weights: of each branch.
    examples: of each branch.
  """

  weights: list[float]
  examples: list[Example]

  @property
  def targets(self) -> list[LatentImage]:
    """The images that are asked for."""
    return [image for image in self.examples[0].images if image.is_target]

  def padded(self, count: int) -> 'Weighted':
    """With so many branches; further ones repeat the first, with weight 0."""
    more = count - len(self.weights)
    return Weighted(self.weights + [0.0] * more, self.examples + self.examples[:1] * more)


def weighted(request: Request, system: System, maker: ExampleMaker) -> Weighted:
  """The branches of a request; raises a ``UserError`` for an image that cannot be read."""
  branches, fitted = system.branches(request.sample, request.scales), {}
  return Weighted([weight for weight, _ in branches],
                  [example_of(sample, maker, fitted) for _, sample in branches])


def example_of(sample: Sample, maker: ExampleMaker, kept: Fitted) -> Example:
  """The example of a request's sample; raises a ``UserError`` for an image that cannot be read."""
  try:
    return maker(sample, kept=kept)
  except DecodeError as error:
    raise user_error(sample.origin, None, f'an image cannot be read: {error}') from None


def least_row(examples: Sequence[Example], base: RowShape, layout: Layout) -> RowShape:
  """The least row that holds each of the examples, rounded up; it may have ``SEGMENTS`` of them.

  Args:
    examples: one or more.
    base: of the run.
    layout: of its models.
  """
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
  step = max(1, power_of_two(units + 1) // 2 // FINENESS)
  return math.ceil(units / step) * step * unit


def power_of_two(amount: int) -> int:
  """The least power of two that is not below the amount."""
  return 1 << max(amount - 1, 0).bit_length()


def rows_for(count: int, ways: int) -> int:
  """How many rows a batch has that needs ``count``: one of few numbers, a multiple of ``ways``."""
  return ways * power_of_two(math.ceil(count / ways))


def place(examples: Sequence[Sequence[Example]], shape: RowShape, most: int | None = None
          ) -> list[list[int]]:
  """Which requests share a row: each in the first one where all of its branches fit.

  Args:
    examples: the branches of each request, as many of each.
    shape: the sizes of a row.
    most: rows at the most; None = as many as it takes. Requests that find no room are in none.
  """
  rows: list[tuple[list[int], list[Row]]] = []
  for index, branches in enumerate(examples):
    for members, filling in rows:
      if all(row.fits(example) for row, example in zip(filling, branches, strict=True)):
        break
    else:
      if len(rows) == most:
        continue
      members, filling = [], [Row(shape) for _ in branches]
      rows.append((members, filling))
    members.append(index)
    for row, example in zip(filling, branches, strict=True):
      row.add(example)
  return [members for members, _ in rows]


def _fill_row(result: RequestBatch, row: int, members: Sequence[int], requests: Sequence[Request],
              found: Sequence[Weighted], factor: int) -> None:
  """Writes the indices, weights and keys of one row of requests."""
  branches = result.branches
  visual, count = branches.batch.visual, branches.weights.shape[1]
  start = image = 0
  for segment, index in enumerate(members, start=1):
    request, first = requests[index], start
    for output, target in enumerate(found[index].targets):
      image += 1
      where = (row, slice(start, start + len(target.positions)))
      result.seeds[where], result.numbers[where] = request.seed, request.number
      result.outputs[where], result.images[where] = output, image
      grid = (target.size[0] // factor, target.size[1] // factor)
      result.drawn.append(Drawn(index, row, start, grid))
      start += len(target.positions)
    result.segments[row, first:start] = segment
    for k in range(count):
      own = row * count + k
      branches.scales[own, segment - 1] = request.scales['text']
      places = np.flatnonzero((visual.segments[own] == segment) & visual.is_target[own])
      branches.token_of[row, k, first:start] = places
      branches.target_of[row, k, places] = np.arange(first, start)
      branches.weights[row, k, first:start] = found[index].weights[k]
