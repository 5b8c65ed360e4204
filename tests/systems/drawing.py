"""Draws a request of a run down to its latents."""

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.generate import shift_of
from jaxgen.sampling.generate import solve
from jaxgen.sampling.load import Run
from jaxgen.sampling.request import Request
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh


def noise_and_latents(run: Run, request: Request, steps: int) -> tuple[np.ndarray, np.ndarray]:
  """f32[h w, C] twice, of the one output of a request."""
  sampling, mesh = run.config.sampling, one_device(run)
  batch = make_batch([request], run.system, run.maker, rows=1, ways=1)
  sigmas = linear_sigmas(steps, shift_of(request, run.config, run.system.layout.latent.factor),
                         sampling.last_level)
  drawn, = batch.drawn
  found = []
  for levels in (np.ones_like(sigmas), sigmas):  # steps of no length leave the noise alone
    with partition.scope(mesh):
      latents = solve(run.system, run.params, batch, levels, sampling.solver, mesh, ())
    found.append(latents[drawn.row, drawn.start:drawn.start + drawn.grid[0] * drawn.grid[1]])
  return tuple(found)


def one_device(run: Run) -> Mesh:
  """The mesh that ``noise_and_latents`` draws on; what is drawn on it shares the programs."""
  return make_mesh(run.config.mesh, jax.devices()[:1])
