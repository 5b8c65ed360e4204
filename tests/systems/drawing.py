"""Draws requests of a run down to their latents."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import torch
from jax.sharding import Mesh

from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.conversion.pipeline_export import export_pipeline
from jaxgen.sampling.batching import RequestBatch
from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.generate import shift_of
from jaxgen.sampling.generate import solve
from jaxgen.sampling.generate import tokens_of
from jaxgen.sampling.load import Run
from jaxgen.sampling.request import Request
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.stepping import noise_of
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from tests.models import float64


def noise_and_latents(run: Run, request: Request, steps: int) -> tuple[np.ndarray, np.ndarray]:
  """f32[h w, C] twice, of the one output of a request."""
  return drawn_together(run, [request], steps)[1][0]


def drawn_together(run: Run, requests: Sequence[Request], steps: int
                   ) -> tuple[RequestBatch, list[tuple[np.ndarray, np.ndarray]]]:
  """Requests of one size, with one output each, in one program: their batch, and for each of them
  noise and latents f32[h w, C]."""
  sampling, mesh = run.config.sampling, one_device(run)
  batch = make_batch(requests, run.system, run.maker, rows=len(requests), ways=1)
  shift, = {shift_of(request, run.config, run.system.layout.latent.factor) for request in requests}
  sigmas = linear_sigmas(steps, shift, sampling.last_level)
  with partition.scope(mesh):
    latents = solve(run.system, run.params, batch, sigmas, sampling.solver, mesh, (),
                    sampling.renormalize)
  noise = np.asarray(noise_of(batch.keys, latents.shape[-1]))
  return batch, [(tokens_of(noise, drawn), tokens_of(latents, drawn)) for drawn in batch.drawn]


def assert_same(ours, theirs) -> None:
  """What a pipeline draws is what we draw.

  Args:
    ours: (noise, latents, uint8[H, W, 3]).
    theirs: (latents, f32[H, W, 3] in [0, 1]).
  """
  noise, latents, picture = ours
  np.testing.assert_allclose(latents, theirs[0], atol=1e-3)
  assert np.abs(latents - noise).mean() > 0.3
  apart = np.abs(picture.astype(int) - np.round(255 * theirs[1]).astype(int))
  assert np.mean(apart <= 1) > 0.999 and picture.std() > 5


def run_pipeline(pipeline, **asked) -> tuple[np.ndarray, np.ndarray]:
  """Final latents and pixels f32[H, W, 3] in [0, 1] of one request to a pipeline of diffusers."""
  kept = {}

  def keep(_, step, time, tensors):
    kept.update(tensors)
    return tensors

  with float64.our_time_frequencies():
    image, = pipeline(**asked, output_type='np', callback_on_step_end=keep).images
  return kept['latents'].numpy()[0], image


def assert_goes_back(run: Run, folder: str, place: pathlib.Path, kind) -> None:
  """Our parameters make the pipeline of a folder again, component by component.

  Args:
    run: with the weights of the folder.
    folder: of the pipeline.
    place: where to write.
    kind: class that opens both.
  """
  save_weights(str(place / 'run'), run.params, to_json(run.config))
  lines = export_pipeline(str(place / 'run'), str(place / 'out'), base=folder)
  models = [kind.from_pretrained(str(path)).components for path in (folder, place / 'out')]
  for name, theirs in models[0].items():
    if isinstance(theirs, torch.nn.Module):
      ours, tensors = models[1][name], theirs.state_dict()
      assert any(line.startswith(f'{name}: written from') for line in lines)
      assert type(ours) is type(theirs) and ours.state_dict().keys() == tensors.keys()
      assert all(torch.equal(tensor, tensors[key]) for key, tensor in ours.state_dict().items())


def one_device(run: Run) -> Mesh:
  """The mesh that these draw on; what is drawn on it shares the programs."""
  return make_mesh(run.config.mesh, jax.devices()[:1])
