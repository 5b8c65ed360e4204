"""Pipelines of diffusers with tiny random components, and the same models as one of our systems."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import torch
from ml_collections import ConfigDict

from jaxgen.conversion import load_pretrained
from jaxgen.conversion.external import open_external
from jaxgen.data.examples import ExampleMaker
from jaxgen.sampling.batching import RequestBatch
from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.generate import shift_of
from jaxgen.sampling.generate import solve
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.base import System
from jaxgen.systems.registry import make_system


@dataclasses.dataclass
class Drawn:
  """What came of a request.

  Attributes:
    noise, latents: f32[h w, C], where the solver began and ended.
    pixels: uint8[H, W, 3].
  """

  noise: np.ndarray
  latents: np.ndarray
  pixels: np.ndarray


@dataclasses.dataclass
class Opened:
  """A system with the weights of a saved pipeline."""

  config: ConfigDict
  system: System
  params: dict

  def batch(self, requests) -> RequestBatch:
    maker = ExampleMaker.of(self.config, self.system.layout)
    return make_batch(requests, self.system, maker, rows=len(requests), ways=1)

  def draw(self, requests, batch: RequestBatch) -> list[Drawn]:
    """The requests of one batch, whose images are of one size."""
    sampling, mesh = self.config.sampling, make_mesh(self.config.mesh, jax.devices()[:1])
    shift, = {shift_of(request, self.config, self.system.layout.latent.factor)
              for request in requests}
    sigmas = linear_sigmas(sampling.steps, shift, sampling.last_level)
    with partition.scope(mesh):
      begun, ended = (solve(self.system, self.params, batch, levels, sampling.solver, mesh, (),
                            sampling.renormalize)
                      for levels in (np.ones_like(sigmas), sigmas))  # steps of no length: the noise
    grid, = {drawn.grid for drawn in batch.drawn}
    begun, ended = (np.stack([found[drawn.row, drawn.start:drawn.start + grid[0] * grid[1]]
                              for drawn in batch.drawn]) for found in (begun, ended))
    decode = jax.jit(functools.partial(self.system.decode, grid=grid))
    pixels = np.clip(np.asarray(decode(self.params, ended)) / 2 + 0.5, 0, 1)
    return [Drawn(*each) for each in zip(begun, ended, np.round(255 * pixels).astype(np.uint8))]


def opened(config: ConfigDict, folder: pathlib.Path, groups: dict[str, str]) -> Opened:
  """A config's system with the models of a saved pipeline; ``groups``: ours -> theirs."""
  params = {}
  for group, name in groups.items():
    config.model[group] = ConfigDict(open_external(str(folder / name)).section)
    params[group] = load_pretrained(str(folder / name))[1]
  return Opened(config, make_system(config), params)


def randomized(model: torch.nn.Module, seed: int, scale: float = 0.15) -> torch.nn.Module:
  """The model with random values everywhere, so that every parameter matters."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for _, parameter in sorted(model.named_parameters()):
      parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
  return model.eval()


def run(pipeline, **asked) -> tuple[np.ndarray, np.ndarray]:
  """Final latents and pixels uint8[H, W, 3] of one request."""
  kept = {}

  def keep(_, step, time, tensors):
    kept.update(tensors)
    return tensors

  image, = pipeline(**asked, output_type='np', callback_on_step_end=keep).images
  return kept['latents'].numpy(), np.round(255 * image).astype(np.uint8)


def assert_same(ours: Drawn, latents: np.ndarray, pixels: np.ndarray) -> None:
  """Both of the latents, which have gone far from the noise, and nearly all pixels."""
  np.testing.assert_allclose(ours.latents, latents, atol=1e-3)
  assert np.abs(latents - ours.noise).mean() > 0.3
  off = np.abs(ours.pixels.astype(int) - pixels.astype(int))
  assert off.shape == pixels.shape and pixels.std() > 5
  assert (off <= 1).mean() >= 0.999, (off > 1).mean()
