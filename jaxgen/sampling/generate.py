"""Requests to images in batches of few fixed shapes, on all devices, the same image for a seed.

The noise of an image is drawn from its request's seed and number and its own place among the
outputs: neither the batch that it shares nor the number of devices changes it.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Array
from jaxgen.core.types import Params
from jaxgen.data.examples import ExampleMaker
from jaxgen.models.layers import quantized
from jaxgen.sampling.batching import Drawn
from jaxgen.sampling.batching import RequestBatch
from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.batching import plan
from jaxgen.sampling.guidance import Branches
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import check_fits
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.schedules import size_shift
from jaxgen.sampling.solvers import SOLVERS
from jaxgen.sampling.stepping import Keys
from jaxgen.sampling.stepping import started
from jaxgen.sampling.stepping import velocity_of
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.base import System

ALL_DEVICES = ConfigDict(dict(data=1, fsdp=-1, context=1, tensor=1))

Images = list[np.ndarray]  # uint8[H, W, 3] each


def generate(system: System, params: Params, requests: Sequence[Request], *, maker: ExampleMaker,
             config: ConfigDict, steps: int = 0, mesh: Mesh | None = None,
             progress: Callable[[int, int], None] = lambda done, total: None,
             parties: Sequence['Party'] = ()) -> list[Images]:
  """Draws the images of every request; where a run has several processes, all of them must call.

  Args:
    system: a system of ``jaxgen.systems``.
    params: all of its parameter groups, as they were read or as ``placed`` returned them.
    requests: with any number of images, sizes and outputs.
    maker: makes examples as in training.
    config: the run's config; ``sampling`` says how to draw, ``mesh.rules`` how arrays lie on
      ``mesh``.
    steps: solver steps; 0 takes ``config.sampling.steps``.
    mesh: all devices, parameters split over them like rows, unless given.
    progress: called with (requests done, requests in all) after each batch.
    parties: what ``planned`` has made of the requests, so that none is prepared again.

  Returns:
    The outputs of each request.

  Raises:
    UserError: a prompt that is too long, an image that cannot be read, a size or a number of
      images that the models cannot draw, a rule that the mesh cannot follow, or latents that are
      not finite.
  """
  sampling = config.sampling
  mesh, table = mesh or make_mesh(ALL_DEVICES), with_changes(config.mesh.rules)
  parties = parties or planned(system, requests, maker, config, mesh, steps)
  params = placed(system, params, config, mesh)
  images: list[Images] = [[] for _ in requests]
  done = 0
  with partition.scope(mesh, table):
    for chosen, sigmas, make in parties:
      batch = make()
      latents = solve(system, params, batch, sigmas, sampling.solver, mesh, config.mesh.rules,
                      sampling.renormalize)
      _check_finite(latents, batch, [requests[index] for index in chosen])
      for drawn, image in zip(batch.drawn, decoded(system, params, latents, batch.drawn, mesh)):
        images[chosen[drawn.request]].append(image)
      done += len(chosen)
      progress(done, len(requests))
  return images


class Party(NamedTuple):
  """Requests that are drawn together.

  Attributes:
    chosen: their numbers.
    sigmas: f32[steps + 1], levels of the solver.
    make: makes the batch, in which the images are decoded.
  """

  chosen: list[int]
  sigmas: np.ndarray
  make: Callable[[], RequestBatch]


def planned(system: System, requests: Sequence[Request], maker: ExampleMaker, config: ConfigDict,
            mesh: Mesh, steps: int = 0) -> list[Party]:
  """Who is drawn with whom, as ``generate`` does; arguments and errors are its own."""
  sampling = config.sampling
  check_fits(requests, system.layout, config.data.clean_roles)
  ways = partition.row_ways(mesh)
  rows = math.ceil(sampling.rows / ways) * ways
  shifts = [shift_of(request, config, system.layout.latent.factor) for request in requests]
  return [Party(chosen,
                linear_sigmas(steps or sampling.steps, shifts[chosen[0]], sampling.last_level),
                functools.partial(make_batch, [requests[index] for index in chosen], system, maker,
                                  rows, ways))
          for chosen in plan(requests, system, maker, rows, shifts)]


def shift_of(request: Request, config: ConfigDict, factor: int) -> float:
  """The timestep shift that a request is drawn with; ``factor`` pixels along a latent token."""
  if not config.sampling.size_shift:
    return config.sampling.timestep_shift
  height, width = max((part.size for part in request.sample.targets), key=math.prod)
  return size_shift((height // factor) * (width // factor), config.sampling.size_shift)


def placed(system: System, params: Params, config: ConfigDict, mesh: Mesh) -> Params:
  """Parameters as ``generate`` uses them; what is so already is returned as it is.

  Args:
    system, params, config: as in ``generate``.
    mesh: that they are spread over.

  Returns:
    All groups on the devices, quantised where the config says so and they are not yet. To be called
    outside of the scope, where Flax refuses the axes of a kernel that slides over an image.
  """
  axes = system.axes()
  kernels = quantized.chosen_kernels(axes, config.model.quantized)
  params = quantized.quantize(params, axes, kernels)
  return trees.map_named(lambda _, leaf, sharding: jax.device_put(leaf, sharding), params,
                         _shardings(params, axes, kernels, config, mesh))


def placed_shapes(system: System, shapes: Params, config: ConfigDict, mesh: Mesh) -> Params:
  """What ``placed`` makes of parameters of these shapes and dtypes, before they are read."""
  axes = system.axes()
  kernels = quantized.chosen_kernels(axes, config.model.quantized)
  shapes = jax.eval_shape(lambda params: quantized.quantize(params, axes, kernels), shapes)
  return trees.map_named(
      lambda _, leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      shapes, _shardings(shapes, axes, kernels, config, mesh))


def _shardings(params: Params, axes: trees.Tree, kernels: Mapping[str, str], config: ConfigDict,
               mesh: Mesh) -> dict[str, Any]:
  return partition.parameter_shardings(quantized.quantized_axes(axes, kernels), params, mesh,
                                       with_changes(config.mesh.rules))


def solve(system: System, params: Params, batch: RequestBatch, sigmas: np.ndarray, solver: str,
          mesh: Mesh, rules: tuple, renormalize: str = 'none') -> np.ndarray:
  """Draws the latents of a batch, within the scope of its mesh.

  Args:
    system: of the run.
    params: on the devices.
    batch: of ``make_batch``.
    sigmas: f32[steps + 1], levels of the solver.
    solver: a key of ``SOLVERS``.
    mesh: that rows are spread over.
    rules: the changes to the sharding rules that the scope was entered with.
    renormalize: see ``guidance.renormalized``.

  Returns:
    f32[R, M, C], at the places that ``batch.drawn`` names.
  """
  branches = encoded(system, params, batch, mesh)
  return partition.gathered(_sample(
      system, params, *partition.split((branches, batch.keys), _rows_of(batch, mesh)),
      SOLVERS[solver].table(sigmas), solver, rules, renormalize))


def compile_for(system: System, shapes: Params, batch: RequestBatch, sigmas: np.ndarray,
                config: ConfigDict, mesh: Mesh) -> None:
  """Compiles what draws a batch, within the scope of its mesh, before there are parameters.

  Args:
    system, batch, sigmas, mesh: as ``solve`` takes them.
    shapes: of ``placed_shapes``.
    config: of the run.
  """
  sampling, latent = config.sampling, system.layout.latent
  _sample.lower(
      system, shapes, *partition.split((batch.branches, batch.keys), _rows_of(batch, mesh)),
      SOLVERS[sampling.solver].table(sigmas), sampling.solver, config.mesh.rules,
      sampling.renormalize).compile()
  at_once = partition.row_ways(mesh)
  rows = partition.row_sharding(mesh, at_once)
  for height, width in batch.given:
    _encode.lower(system, shapes, jax.ShapeDtypeStruct(
        (at_once, height, width, 3), np.uint8, sharding=rows)).compile()
  for grid in {each.grid for each in batch.drawn}:
    _decode.lower(system, shapes, jax.ShapeDtypeStruct(
        (at_once, math.prod(grid), latent.channels), np.float32, sharding=rows), grid).compile()


def _rows_of(batch: RequestBatch, mesh: Mesh) -> NamedSharding:
  return partition.row_sharding(mesh, len(batch.images))


def encoded(system: System, params: Params, batch: RequestBatch, mesh: Mesh) -> Branches:
  """The branches of a batch with the latents of the given images in their places."""
  visual = batch.branches.batch.visual
  latents = np.array(visual.latents, np.float32)  # [R K, L, C]
  flat = latents.reshape(-1, latents.shape[-1])
  for images, slots in batch.given.values():
    tokens = encode_images(system, params, images, mesh)  # [n, h w, C]
    flat[slots[:, None] + np.arange(tokens.shape[1])] = tokens
  return batch.branches.replace(
      batch=batch.branches.batch.replace(visual=visual.replace(latents=latents)))


def encode_images(system: System, params: Params, images: np.ndarray, mesh: Mesh) -> np.ndarray:
  """Clean latent tokens f32[n, h w, C] of uint8[n, H, W, 3]."""
  return _one_by_one(functools.partial(_encode, system, params), images, mesh)


def decoded(system: System, params: Params, latents: np.ndarray, drawn: Sequence[Drawn],
            mesh: Mesh) -> list[np.ndarray]:
  """uint8[H, W, 3] of each image that is named, of latents f32[R, M, C]."""
  images: list[np.ndarray] = [np.empty(0)] * len(drawn)
  for grid in sorted({each.grid for each in drawn}):
    alike = [index for index, each in enumerate(drawn) if each.grid == grid]
    tokens = np.stack([tokens_of(latents, drawn[index]) for index in alike])  # [n, h w, C]
    pixels = _one_by_one(lambda chunk, grid=grid: _decode(system, params, chunk, grid), tokens,
                         mesh)
    for index, image in zip(alike, pixels, strict=True):
      images[index] = image
  return images


def tokens_of(latents: np.ndarray, drawn: Drawn) -> np.ndarray:
  """f32[h w, C] of one image among latents f32[R, M, C]."""
  return latents[drawn.row, drawn.start:drawn.start + math.prod(drawn.grid)]


def _one_by_one(run: Callable[[Array], Array], items: np.ndarray, mesh: Mesh) -> np.ndarray:
  """Applies ``run`` to items [n, ...], one at a time on each device: the same program for any n."""
  at_once = partition.row_ways(mesh)
  rows = partition.row_sharding(mesh, at_once)
  results = []
  for start in range(0, len(items), at_once):
    chunk = items[start:start + at_once]
    filled = chunk[np.arange(at_once) % len(chunk)]
    results.append(partition.gathered(run(partition.split(filled, rows)))[:len(chunk)])
  return np.concatenate(results)


def _check_finite(latents: np.ndarray, batch: RequestBatch, requests: Sequence[Request]) -> None:
  for drawn in batch.drawn:
    if not np.isfinite(tokens_of(latents, drawn)).all():
      raise user_error('sample', requests[drawn.request].sample.id, 'the latents are not finite, '
                       'so no image is written; sample from an earlier checkpoint, or with a lower '
                       '--guidance')


@functools.partial(jax.jit, static_argnums=0)
def _encode(system: System, params: Params, images: Array) -> Array:
  return system.encode(params, images.astype(jnp.float32) / 127.5 - 1)


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7))
def _sample(system: System, params: Params, branches: Branches, keys: Keys, table: Array,
            solver: str, rules: tuple, renormalize: str) -> Array:
  """Latents f32[R, M, C]. ``rules`` are those of the scope, by which JAX does not tell programs
  apart."""
  del rules
  conditioning, eps = started(system, params, branches, keys)
  velocity = velocity_of(system, params, branches, conditioning, keys[-1], renormalize)
  return SOLVERS[solver].integrate(velocity, eps, table)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decode(system: System, params: Params, tokens: Array, grid: tuple[int, int]) -> Array:
  """uint8[n, H, W, 3] of f32[n, h w, C]."""
  pixels = jnp.clip(system.decode(params, tokens, grid) * 0.5 + 0.5, 0, 1)
  return jnp.round(pixels * 255).astype(jnp.uint8)
