"""Requests to batches: every branch through the example maker and the packer of training."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxgen.core.types import Batch
from jaxgen.core.types import Layout
from jaxgen.data.example import Example
from jaxgen.data.example import Size
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.packing import Row
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.sampling.guidance import Branches
from jaxgen.sampling.request import Request
from jaxgen.systems.base import System

# Lengths are multiples of these, so that few programs are compiled.
WORDS, TOKENS = 32, 16
SEGMENTS = 8  # requests that share a row at the most


@dataclasses.dataclass(frozen=True)
class Drawn:
  """Where an image of a request comes out.

  Attributes:
    request, output: their numbers within the batch and the request.
    row, start: its first token among the solved ones of a row.
    grid: (h, w) of its latent tokens.
  """

  request: int
  output: int
  row: int
  start: int
  grid: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class RequestBatch:
  """Requests that are drawn together.

  Attributes:
    branches: numpy; clean latents are zeros until ``given`` are encoded.
    seeds, numbers, outputs: i32[R, M], of the image that each solved token belongs to.
    images: i32[R, M], number of that image within its row, 0 = absent.
    given: size -> (uint8[n, H, W, 3], i32[n] first token of each in the rows one after another).
    drawn: every image that comes out.
  """

  branches: Branches
  seeds: np.ndarray
  numbers: np.ndarray
  outputs: np.ndarray
  images: np.ndarray
  given: dict[Size, tuple[np.ndarray, np.ndarray]]
  drawn: list[Drawn]


def batches(requests: Sequence[Request], system: System, maker: ExampleMaker, rows: int, ways: int
            ) -> list[tuple[list[int], Callable[[], RequestBatch]]]:
  """Splits requests into batches of at most ``rows`` rows, alike ones together.

  Args:
    requests: in any order.
    system: says its branches and its layout.
    maker: of the run.
    rows: of a batch at the most.
    ways: the number of rows is a multiple of it.

  Returns:
    ``[(numbers of the requests, function that makes their batch)]``.
  """
  order = sorted(range(len(requests)), key=lambda index: _weight(requests[index]))
  chunks = [order[start:start + rows] for start in range(0, len(order), rows)]
  return [(chunk, lambda chunk=chunk: make_batch(
      [requests[index] for index in chunk], system, maker, ways)) for chunk in chunks]


def make_batch(requests: Sequence[Request], system: System, maker: ExampleMaker, ways: int
               ) -> RequestBatch:
  """Packs requests with all their branches.

  Raises:
    UserError: an image that cannot be read, or a prompt longer than ``data.prompt_tokens``.
  """
  weighted = [system.branches(request.sample, request.scales) for request in requests]
  examples = [[maker(sample) for _, sample in own] for own in weighted]
  shape = _row_shape(examples, maker, system.layout)
  count = max(map(len, weighted))
  placed = _place(examples, shape, count)
  placed += [[]] * (-len(placed) % ways)
  # A request without the last branches repeats its first one with weight 0.
  rows = [[examples[index][k] if k < len(examples[index]) else examples[index][0]
           for index in row] for row in placed for k in range(count)]
  loaded = pack(rows, shape, maker.pad)
  tokens = max(_targets(row, examples, system.layout) for row in placed)
  result = _empty(loaded.batch, len(placed), count, tokens, loaded.images)
  for row, members in enumerate(placed):
    _fill_row(result, row, members, requests, weighted, system.layout, count)
  return result


def _weight(request: Request) -> tuple[int, int]:
  """Pixels and parts, by which requests are sorted so that rows hold little padding."""
  pixels = sum(part.size[0] * part.size[1] for part in request.sample.targets)
  return pixels, len(request.sample.parts)


def _row_shape(examples: Sequence[Sequence[Example]], maker: ExampleMaker, layout: Layout
               ) -> RowShape:
  """The least row that holds the largest example, and the sizes of training for the rest."""
  base = maker.row_shape(sees=True)
  needs = [base.needs(example) for own in examples for example in own]

  def most(name, unit):
    return math.ceil(max(need[name] for need in needs) / unit) * unit

  least = max(1, min(max(need['visual tokens'] for need in own_needs) for own_needs in (
      [base.needs(example) for example in own] for own in examples)))
  length = most('visual tokens', TOKENS)
  return dataclasses.replace(
      base, segments=max(1, min(SEGMENTS, length // least)), visual_tokens=length,
      prompt_tokens=most('prompt tokens', WORDS), patches=most('patches', 1))


def _place(examples: Sequence[Sequence[Example]], shape: RowShape, count: int) -> list[list[int]]:
  """Which requests share a row: each where all of its branches fit, in order."""
  rows: list[tuple[list[int], list[Row]]] = []
  for index, own in enumerate(examples):
    branches = [own[k] if k < len(own) else own[0] for k in range(count)]
    for members, filling in rows[-1:]:
      if all(row.fits(example) for row, example in zip(filling, branches)):
        members.append(index)
        break
    else:
      filling, members = [Row(shape) for _ in range(count)], [index]
      rows.append((members, filling))
    for row, example in zip(rows[-1][1], branches):
      row.add(example)
  return [members for members, _ in rows]


def _targets(members: Sequence[int], examples: Sequence[Sequence[Example]], layout: Layout) -> int:
  return sum(len(image.positions) for index in members for image in examples[index][0].images
             if image.is_target)


def _empty(batch: Batch, rows: int, count: int, tokens: int, given) -> RequestBatch:
  length = batch.visual.segments.shape[1]

  def zeros(*shape, dtype=np.int32):
    return np.zeros(shape, dtype)

  return RequestBatch(
      Branches(batch, zeros(rows, count, tokens), zeros(rows, count, length),
               zeros(rows, count, tokens, dtype=np.float32)),
      *(zeros(rows, tokens) for _ in range(4)), given, [])


def _fill_row(result: RequestBatch, row: int, members: Sequence[int],
              requests: Sequence[Request], weighted, layout: Layout, count: int) -> None:
  """Writes the indices, weights and keys of one row of requests."""
  branches, start, factor = result.branches, 0, layout.latent.factor
  visual = branches.batch.visual
  image = 0
  for segment, index in enumerate(members, start=1):
    request, first = requests[index], start
    for output, part in enumerate(request.sample.targets):
      grid = (part.size[0] // factor, part.size[1] // factor)
      image += 1
      where = (row, slice(start, start + grid[0] * grid[1]))
      result.seeds[where], result.numbers[where] = request.seed, request.number
      result.outputs[where], result.images[where] = output, image
      result.drawn.append(Drawn(index, output, row, start, grid))
      start += grid[0] * grid[1]
    for k in range(count):
      own = row * count + k
      places = np.flatnonzero((visual.segments[own] == segment) & visual.is_target[own])
      branches.token_of[row, k, first:start] = places
      branches.target_of[row, k, places] = np.arange(first, start)
      if k < len(weighted[index]):
        branches.weights[row, k, first:start] = weighted[index][k][0]
