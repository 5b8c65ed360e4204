"""Sizes of a server's programs: those of images, and of rows, which requests at the limits give."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.data.buckets import Size
from jaxgen.data.example import Example
from jaxgen.data.packing import RowShape
from jaxgen.sampling.batching import SEGMENTS
from jaxgen.sampling.batching import Weighted
from jaxgen.sampling.batching import least_row
from jaxgen.sampling.batching import power_of_two
from jaxgen.sampling.batching import weighted
from jaxgen.sampling.jobs import GIVEN
from jaxgen.sampling.load import Run
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import check_fits
from jaxgen.sampling.request import make_request

PROBE = (2048, 2048)  # size of given images that rows are measured with, where any may be given
WORDS = 'a picture'


@dataclasses.dataclass(frozen=True)
class Kind:
  """The static sizes of a program, apart from the number of its rows.

  Attributes:
    shape: of a row.
    branches: K, of each request.
  """

  shape: RowShape
  branches: int

  def refusal(self, found: Weighted) -> str:
    """Why an empty row has no room for a request; '' where it has."""
    if len(found.weights) > self.branches:
      return (f'needs {len(found.weights)} branches of guidance, and this server has compiled '
              f'{self.branches}; start it with the --guidance and --image-guidance that are to be '
              'asked for')
    limits = self.shape.limits()
    for example in found.examples:
      for name, amount in self.shape.needs(example).items():
        if amount > limits[name]:
          return (f'has {amount} {name}, but a row of this server holds {limits[name]}; ask for '
                  'fewer or smaller images, in fewer words')
    return ''


class Probe:
  """Measures requests of a run.

  Args:
    run: that is to be served; its parameters are not needed.
    sizes: (height, width) of outputs.
  """

  def __init__(self, run: Run, sizes: Sequence[Size]):
    self._run, self._sizes = run, sizes

  def request(self, size: Size, outputs: int = 1, **images: Sequence[Size]) -> Request:
    """A request for so many outputs with grey images of those sizes, by their role."""
    given = {role: [np.broadcast_to(np.uint8(127), (*shape, 3)) for shape in shapes]
             for role, shapes in images.items()}
    return make_request(self._run.config, WORDS, size=size, outputs=outputs, **given)

  def edit(self, size: Size, outputs: int, images: Sequence[Size], sources: int = 1) -> Request:
    """A request whose first images are edited and whose others are referred to."""
    return self.request(size, outputs, source=images[:sources], reference=images[sources:])

  def most(self, limit: int, least: int, request: Callable[[int], Request]) -> int:
    """The largest count up to the limit whose request the models can draw."""
    for count in range(limit, least, -1):
      try:
        self.found(request(count))
      except UserError:
        continue
      return count
    return least

  def found(self, request: Request) -> Weighted:
    """The branches of a request that the models can draw; raises a ``UserError`` otherwise."""
    check_fits([request], self._run.system.layout, self._run.config.data.clean_roles)
    return weighted(request, self._run.system, self._run.maker)

  def kinds(self, outputs: int, images: int, shapes: Sequence[Size]) -> list[Kind]:
    """The programs for words alone, for one given image, and for all that may be asked for.

    Args:
      outputs, images: of one request at the most.
      shapes: (height, width) that given images may have.
    """
    smallest, largest = (pick(self._sizes, key=math.prod) for pick in (min, max))
    least = self.found(self.request(smallest)).examples[0].visual_tokens
    kinds: list[Kind] = []
    examples, branches = [], 1
    for count, numbers in ((1, [0]), (1, [min(images, 1)]), (outputs, range(images + 1))):
      for given in numbers:
        for found in self._fullest(largest, count, given, shapes):
          examples = self._extreme([*examples, *found.examples])
          branches = max(branches, len(found.weights))
      kind = Kind(self._row(examples, least), branches)
      if kind not in kinds:
        kinds.append(kind)
    return kinds

  def read_sizes(self, shapes: Sequence[Size], images: int) -> set[Size]:
    """(height, width) that given images of these shapes are encoded at.

    Args:
      shapes: (height, width) of given images.
      images: of one request at the most; how many there are may decide how large each of them is.
    """
    asked = [(self._sizes[0], {role: [shape] * count}) for role in GIVEN for shape in shapes
             for count in range(1, images + 1)]
    asked += [(size, dict(source=shapes[:1])) for size in self._sizes if images]
    found = set()
    for size, given in asked:
      with contextlib.suppress(UserError):  # no task has so many of one role
        request = self.request(size, **given)
        found |= {plan.size for _, plan in self._run.maker.to_encode(request.sample)}
    return found

  def _fullest(self, size: Size, outputs: int, images: int, shapes: Sequence[Size]
               ) -> Iterator[Weighted]:
    """Branches of requests of which one takes the most room; with one image of all shapes, with
    more of those that have the most tokens as one."""
    if images > 1:
      areas = {shape: sum(math.prod(plan.size) for _, plan in self._run.maker.to_encode(
          self.request(size, reference=[shape]).sample)) for shape in shapes}
      shapes = sorted(shapes, key=areas.__getitem__)[-2:]
    for shape in shapes if images else shapes[:1]:
      for sources in range(images + 1):
        with contextlib.suppress(UserError):  # no task has so many of one role
          yield self.found(self.edit(size, outputs, [shape] * images, sources))

  def _extreme(self, examples: Sequence[Example]) -> list[Example]:
    """Those that need the most of something; the others' pixels need not be kept."""
    needs = [self._run.maker.row_shape(sees=False).needs(example) for example in examples]
    return [examples[max(range(len(examples)), key=lambda index, name=name: needs[index][name])]
            for name in needs[0]]

  def _row(self, examples: Sequence[Example], least: int) -> RowShape:
    """The least row for any of the examples; so many requests of ``least`` tokens share it as fit.
    """
    maker, data = self._run.maker, self._run.config.data
    shape = least_row(examples, maker.row_shape(sees=False), self._run.system.layout)
    segments = min(SEGMENTS, power_of_two(max(shape.visual_tokens // least, 1)))
    return dataclasses.replace(shape, segments=segments,
                               prompt_tokens=data.prompt_tokens if shape.prompt_tokens else 0)


def shown(sizes: Sequence[Size]) -> str:
  """(height, width) of images as OpenAI writes them, WIDTHxHEIGHT."""
  return ', '.join(f'{width}x{height}' for height, width in sorted(set(sizes)))


def named_size(text: str, where: str) -> Size:
  """(height, width) of ``WIDTHxHEIGHT``, as OpenAI writes it; raises a ``UserError``."""
  sides = text.lower().split('x')
  if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and len(side) < 6
                                for side in sides):
    raise user_error(where, text, 'write WIDTHxHEIGHT, as 768x512')
  return int(sides[1]), int(sides[0])
