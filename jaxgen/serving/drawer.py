"""Requests into programs of fixed shapes, which are all compiled before the first one is drawn.

A row of a program holds several requests, as in training. Programs differ in what one request may
bring: words alone, one given image, or as many images and outputs as the server allows.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from jaxgen.core.errors import user_error
from jaxgen.data.buckets import Size
from jaxgen.data.buckets import best_bucket
from jaxgen.data.decode import decode
from jaxgen.data.images import fit_image
from jaxgen.sampling.batching import Drawn
from jaxgen.sampling.generate import ALL_DEVICES
from jaxgen.sampling.generate import decoded
from jaxgen.sampling.generate import encode_images
from jaxgen.sampling.generate import placed
from jaxgen.sampling.generate import shift_of
from jaxgen.sampling.load import Run
from jaxgen.sampling.reading import Fixed
from jaxgen.sampling.reading import Reader
from jaxgen.sampling.reading import writes
from jaxgen.sampling.request import Image
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import default_size
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.solvers import SOLVERS
from jaxgen.serving.drawing import Drawing
from jaxgen.serving.drawing import Job
from jaxgen.serving.kinds import PROBE
from jaxgen.serving.kinds import Probe
from jaxgen.serving.kinds import shown
from jaxgen.serving.limits import Limits
from jaxgen.serving.seating import Seating
from jaxgen.serving.seating import Seats
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.rules import with_changes


class Drawer:
  """A run with the programs that a server draws by.

  Args:
    run: what is drawn from.
    limits: of the server.
    sizes: (height, width) of outputs that may be asked for; () = the run's buckets, or its one
      size.
    mesh: all devices, parameters split over them like rows, unless given.

  Attributes:
    run: its parameters are on the devices once the programs are compiled.
    sizes: that may be asked for.
    outputs, images: most outputs and given images of one request, by the limits and the models.
    kinds: the programs, each at least as large as the one before.
    seating: chooses which requests are drawn together.
    reads: shape of the programs that read and write dialogues; None = the model writes no text.

  Raises:
    UserError: a size that the models cannot draw.
  """

  def __init__(self, run: Run, limits: Limits, sizes: Sequence[Size] = (),
               mesh: Mesh | None = None):
    self.run, self.mesh = run, mesh or make_mesh(ALL_DEVICES)
    config, side = run.config, run.config.sampling.size
    ways = partition.row_ways(self.mesh)
    self.sizes = tuple(dict.fromkeys(sizes or ([(side, side)] if side else run.maker.sizes)))
    # Where given images have sizes of their own, these are the ones that they may have.
    self._shapes = tuple(dict.fromkeys((*self.sizes, *run.maker.sizes)))
    probe, largest = Probe(run, self.sizes), max(self.sizes, key=math.prod)
    for size in self.sizes:
      probe.found(probe.request(size))
    self.outputs = probe.most(limits.outputs, 1, lambda count: probe.request(largest, count))
    self.images = probe.most(limits.images, 0,
                             lambda count: probe.edit(largest, 1, [largest] * count))
    self._cropped = config.data.references != 'bucket'
    self.kinds = probe.kinds(self.outputs, self.images, self._shapes if self._cropped else [PROBE])
    self._read = probe.read_sizes(self._shapes, self.images)
    self.seating = Seating(self.kinds, limits.rows or config.sampling.rows, ways)
    self._first = probe.request(self.sizes[0])
    self.reads = Fixed(self.kinds[-1].shape, ways, limits.tokens) if writes(run.system) else None

  def given(self, image: bytes) -> Image:
    """A given image as the programs take it; on any thread.

    Where given images have sizes of their own, it is cropped and resized to the nearest of those
    whose programs are compiled; elsewhere it is as it was.

    Raises:
      DecodeError: it cannot be read.
    """
    pixels = decode(image)
    if not self._cropped:
      return pixels
    return fit_image(pixels, best_bucket(pixels.shape[:2], self._shapes))

  def size_for(self, source: Sequence[Image], given: Sequence[Image]) -> Size:
    """(height, width) of outputs of which none was asked for, one of ``sizes``; see
    ``request.default_size``."""
    wanted = default_size(self.run.config, source, given, 'size')
    return wanted if wanted in self.sizes else best_bucket(wanted, self.sizes)

  def prepare(self, request: Request, steps: int = 0) -> Job:
    """Makes the examples of a request, whose images are decoded; on any thread.

    Args:
      request: of this run.
      steps: of the solver; 0 takes the config's.

    Raises:
      UserError: an image that cannot be read, a size that is not compiled, or more tokens, images
        or branches than a row has room for.
    """
    config, layout, where = self.run.config, self.run.system.layout, request.sample.origin
    for part in request.sample.targets:
      if part.size not in self.sizes:
        raise user_error(f'{where}: size', shown([part.size]),
                         f'this server draws {shown(self.sizes)} (WIDTHxHEIGHT)')
    found = Probe(self.run, self.sizes).found(request)
    read = {image.size for example in found.examples for image in example.images
            if image.pixels is not None}
    if not read <= self._read:
      raise user_error(f'{where}: images', shown(read - self._read), 'this server reads them at '
                       f'{shown(self._read)} (WIDTHxHEIGHT)')
    refusals = [kind.refusal(found) for kind in self.kinds]
    if all(refusals):
      raise user_error(where, None, refusals[-1])
    sigmas = linear_sigmas(steps or config.sampling.steps,
                           shift_of(request, config, layout.latent.factor),
                           config.sampling.last_level)
    # A queue of large photographs would fill the memory.
    small = dataclasses.replace(request.sample, parts=tuple(request.sample.targets))
    return Job(dataclasses.replace(request, sample=small), found, refusals.index(''),
               SOLVERS[config.sampling.solver].table(sigmas))

  def scope(self) -> contextlib.AbstractContextManager[None]:
    """What the thread that owns the devices does everything in."""
    return partition.scope(self.mesh, with_changes(self.run.config.mesh.rules))

  def warm_up(self) -> Iterator[str]:
    """Places the parameters, compiles every program and measures it; says what comes next.

    To be called outside of the scope and gone through on the thread that owns the devices.
    """
    yield 'parameters'
    params = placed(self.run.system, self.run.params, self.run.config, self.mesh)
    self.run = dataclasses.replace(self.run, params=params)
    system, latent = self.run.system, self.run.system.layout.latent
    with self.scope():
      for size in sorted(self._read):
        yield f'images of {shown([size])} to latents'
        encode_images(system, params, np.zeros((1, *size, 3), np.uint8), self.mesh)
      for size in self.sizes:
        yield f'latents to images of {shown([size])}'
        grid = (size[0] // latent.factor, size[1] // latent.factor)
        decoded(system, params, np.zeros((1, math.prod(grid), latent.channels), np.float32),
                [Drawn(0, 0, 0, grid)], self.mesh)
      job = self.prepare(self._first, steps=5)
      for number, kind in enumerate(self.kinds):
        for rows in self.seating.rows:
          yield (f'{rows} rows of {kind.shape.visual_tokens} latent tokens, '
                 f'{kind.shape.prompt_tokens} of prompts and {kind.shape.patches} patches')
          drawing = self.start([job], Seats(number, [[0], *[[]] * (rows - 1)]))
          self.seating.seconds[number, rows] = _step_seconds(drawing)
      if self.reads:
        yield f'texts of {self.reads.max_tokens} tokens'
        self._write(job)

  def _write(self, job: Job) -> None:
    """Compiles what reads and writes: the likeliest token, or one of all, or of the likely ones."""
    run = self.run
    for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.5)):
      reader = Reader(run.system, run.params, run.maker, run.config, self.mesh, 1,
                      temperature=temperature, top_p=top_p, max_tokens=self.reads.max_tokens,
                      fixed=self.reads)
      reader.read({0: job.found.examples[0]})
      reader.write({0: (0, 0)})

  def start(self, jobs: Sequence[Job], seats: Seats) -> Drawing:
    """Begins a batch, within the scope.

    Args:
      jobs: of which those with seats are drawn.
      seats: of ``seating``.
    """
    empty = self.seating.compiled(len(seats.rows)) - len(seats.rows)
    return Drawing(self.run, self.mesh, self.kinds[seats.kind], jobs,
                   [*seats.rows, *[[]] * empty])


def _step_seconds(drawing: Drawing) -> float:
  """Seconds of a step: the shortest of those behind the first, which compiles."""
  seconds, done = [], []
  while not done:
    began = time.perf_counter()
    done = drawing.advance()
    seconds.append(time.perf_counter() - began)
  return min(seconds[1:])
