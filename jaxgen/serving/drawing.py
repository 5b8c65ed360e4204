"""A batch of jobs under way: one step of the solver at a time, each job at levels of its own."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen.core.errors import user_error
from jaxgen.sampling.batching import Weighted
from jaxgen.sampling.batching import fill_batch
from jaxgen.sampling.generate import decoded
from jaxgen.sampling.generate import encoded
from jaxgen.sampling.generate import tokens_of
from jaxgen.sampling.load import Run
from jaxgen.sampling.request import Request
from jaxgen.sampling.stepping import advance
from jaxgen.sampling.stepping import begin
from jaxgen.serving.kinds import Kind
from jaxgen.sharding import partition


@dataclasses.dataclass(frozen=True)
class Job:
  """A request that is ready to be drawn.

  Attributes:
    request: what was asked, without the given images, whose fitted copies are in ``found``.
    found: its branches.
    kind: number of the smallest program that holds it.
    levels: f32[steps, K], the table of its solver.
  """

  request: Request
  found: Weighted
  kind: int
  levels: np.ndarray

  def numbered(self, number: int) -> 'Job':
    """The same job with other noise: number ``number`` of its seed."""
    return dataclasses.replace(self, request=dataclasses.replace(self.request, number=number))


class Drawing:
  """Jobs that are drawn together; within the scope of the mesh, on the thread that owns it.

  Args:
    run: with its parameters on the devices.
    mesh: that rows are spread over.
    kind: of the program.
    jobs: in any order.
    rows: numbers of the jobs of each row; all rows of the program, perhaps empty ones.
  """

  def __init__(self, run: Run, mesh: Mesh, kind: Kind, jobs: Sequence[Job],
               rows: Sequence[Sequence[int]]):
    self._run, self._mesh = run, mesh
    sampling = run.config.sampling
    self._static = dict(solver=sampling.solver, rules=run.config.mesh.rules)
    self._renormalize = sampling.renormalize
    found = [job.found.padded(kind.branches) for job in jobs]
    batch = fill_batch(rows, [job.request for job in jobs], found, kind.shape, run.maker.pad)
    self.step, self._drawn = 0, batch.drawn
    self.steps = {number: len(jobs[number].levels) for members in rows for number in members}
    self._levels = self._table(kind, jobs, rows)
    self._sharding = partition.row_sharding(mesh, len(rows))
    self._branches, keys, self._segments = jax.device_put(
        (encoded(run.system, run.params, batch, mesh), batch.keys, batch.segments),
        self._sharding)
    self._images = keys[-1]
    self._conditioning, self._carry = begin(run.system, run.params, self._branches, keys,
                                            **self._static)

  def advance(self) -> list[int]:
    """One step of the solver; returns the numbers of the jobs whose last one it was."""
    levels = jax.device_put(self._levels[self.step], self._sharding)
    self._carry = advance(
        self._run.system, self._run.params, self._branches, self._conditioning, self._carry, levels,
        self._segments, self._images, renormalize=self._renormalize, **self._static)
    jax.block_until_ready(self._carry)
    self.step += 1
    return [number for number, steps in self.steps.items() if steps == self.step]

  def images(self, numbers: Sequence[int]) -> dict[int, list[np.ndarray] | Exception]:
    """What was drawn: number of a job -> uint8[H, W, 3] of each output, or what is wrong with it.

    Args:
      numbers: of jobs that are done.
    """
    if not numbers:
      return {}
    latents = np.asarray(self._carry[0])  # [R, M, C]
    results: dict[int, list[np.ndarray] | Exception] = {number: [] for number in numbers}
    chosen = []
    for drawn in self._drawn:
      if drawn.request not in results:
        continue
      if np.isfinite(tokens_of(latents, drawn)).all():
        chosen.append(drawn)
      else:
        results[drawn.request] = user_error('image', None, 'the latents are not finite; ask for '
                                            'it with less guidance')
    for drawn, image in zip(chosen, decoded(self._run.system, self._run.params, latents, chosen,
                                            self._mesh), strict=True):
      if isinstance(results[drawn.request], list):
        results[drawn.request].append(image)
    return results

  def _table(self, kind: Kind, jobs: Sequence[Job], rows: Sequence[Sequence[int]]) -> np.ndarray:
    """f32[steps, R, G, K]: the row of its table that each job is at; zeros behind its last."""
    width = jobs[0].levels.shape[1]
    table = np.zeros((max(self.steps.values()), len(rows), kind.shape.segments, width), np.float32)
    for row, members in enumerate(rows):
      for segment, number in enumerate(members):
        table[:self.steps[number], row, segment] = jobs[number].levels
    return table
