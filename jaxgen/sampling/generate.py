"""Texts to images in batches of one fixed shape, on all devices, the same image for a seed.

The noise of an image is drawn from ``fold_in(key(seed), image id)``: it depends on nothing
else, so neither the batch that an image shares nor the number of devices changes it.
"""

import functools
import math
from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Array
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.core.types import Visual
from jaxgen.data.positions import image_positions
from jaxgen.data.prompts import encode_prompts
from jaxgen.models.layers import quantized
from jaxgen.sampling.guidance import guided_velocity
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.solvers import euler
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.base import System

TOKENS = 32  # prompt lengths are multiples of this, so that few programs are compiled
ALL_DEVICES = ConfigDict(dict(data=1, fsdp=-1, context=1, tensor=1))


def generate(system: System, params: Params, texts: Sequence[str], *, tokenizer, config: ConfigDict,
             seed: int, steps: int = 0, guidance: float | None = None,
             image_ids: Sequence[int] | None = None, rows: int = 16, mesh: Mesh | None = None,
             progress: Callable[[int, int], None] = lambda done, total: None) -> np.ndarray:
  """Draws one image for each text.

  Args:
    system: a system of ``jaxgen.systems``.
    params: all of its parameter groups.
    texts: captions.
    tokenizer: of ``jaxgen.data.tokenizer.load_tokenizer``.
    config: the run's config; ``sampling`` gives the defaults of what is not passed here,
      ``mesh.rules`` say how arrays lie on ``mesh``.
    seed: the same seed and image id give the same image.
    steps: solver steps; 0 takes ``config.sampling.steps``.
    guidance: scale of ``u + s (c - u)``; None takes ``config.sampling.guidance``.
    image_ids: number of each image, by default its place in ``texts``.
    rows: images drawn at once, rounded up to a multiple of the ways that ``mesh`` splits rows.
    mesh: all devices, parameters split over them like rows, unless given.
    progress: called with (images drawn, images in all) after each batch.

  Returns:
    uint8[n, H, W, 3].

  Raises:
    UserError: a prompt that is too long, a rule that the mesh cannot follow, or latents that are
      not finite.
  """
  scale = config.sampling.guidance if guidance is None else guidance
  sigmas = linear_sigmas(steps or config.sampling.steps, config.sampling.timestep_shift)
  grid = latent_grid(config.sampling.size or config.data.image_size, system.layout.latent_factor)
  ids = np.arange(len(texts)) if image_ids is None else np.asarray(image_ids)
  encode = functools.partial(encode_prompts, tokenizer=tokenizer, layout=system.layout,
                             data=config.data)
  mesh, table = mesh or make_mesh(ALL_DEVICES), with_changes(config.mesh.rules)
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  rows = math.ceil(min(rows, len(texts)) / ways) * ways
  images = []
  # Outside of the scope, where Flax refuses the axes of a kernel that slides over height and width.
  axes = system.axes()
  kernels = quantized.chosen_kernels(axes, config.model.quantized)
  params, axes = quantized.quantize(params, axes, kernels), quantized.quantized_axes(axes, kernels)
  params = trees.map_named(lambda _, leaf, sharding: jax.device_put(leaf, sharding), params,
                           partition.parameter_shardings(axes, params, mesh, table))
  with partition.scope(mesh, table):
    for start in range(0, len(texts), rows):
      chunk = list(texts[start:start + rows])
      padding = rows - len(chunk)
      # Empty prompts fill the batch; those behind it, one for each part of the mesh, guide it.
      prompts = trim(encode(chunk + [None] * (padding + ways * (scale != 1))))
      keys = image_keys(seed, np.pad(ids[start:start + rows], (0, padding)))
      prompts, keys = jax.device_put((prompts, keys), partition.row_sharding(mesh, rows))
      latents, pixels = _sample(system, params, prompts, keys, sigmas, scale, grid,
                                config.mesh.rules)
      _refuse_non_finite(np.asarray(latents), chunk)
      images.append(np.asarray(pixels)[:len(chunk)])
      progress(start + len(chunk), len(texts))
  return np.concatenate(images)


def image_keys(seed: int, image_ids: Array) -> jax.Array:
  """The random key of each image, key[n]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(image_ids))


def latent_grid(size: int, factor: int) -> tuple[int, int]:
  """Latent tokens (down, across) of a square image of ``size`` pixels."""
  if size % factor:
    raise user_error('config.sampling.size', size,
                     f'must be a multiple of {factor}, the pixels along a latent token')
  return size // factor, size // factor


def trim(prompts: Prompt) -> Prompt:
  """Cuts token columns that are padding in every row, down to a multiple of ``TOKENS``."""
  used = np.flatnonzero(prompts.segments.any(axis=0)).max(initial=-1) + 1
  length = math.ceil(used / TOKENS) * TOKENS
  names = ('tokens', 'positions', 'segments', 'loss_mask', 'image_index')
  return prompts.replace(**{name: getattr(prompts, name)[:, :length] for name in names})


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _sample(system: System, params: Params, prompts: Prompt, keys: Array, sigmas: Array,
            scale: Array, grid: tuple[int, int], rules: tuple) -> tuple[Array, Array]:
  """Latents f32[B, h*w, C] and images uint8[B, H, W, 3] of one batch.

  ``prompts`` has B rows for the images; empty ones behind them switch guidance on. ``rules`` are
  those of the scope, by which JAX does not tell programs apart.
  """
  del rules
  def velocity(x, t, conditioning):
    return system.denoise(params, x, t[:, None], _one_image(x, grid), conditioning)

  states, rows = system.condition(params, prompts), len(keys)
  conditional = jax.tree.map(lambda leaf: leaf[:rows], states)
  unconditional = None
  if len(prompts.tokens) > rows:
    unconditional = jax.tree.map(lambda leaf: leaf[rows:rows + 1], states)
  shape = (grid[0] * grid[1], system.layout.latent_channels)
  noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
  latents = euler(guided_velocity(velocity, conditional, unconditional, scale), noise, sigmas)
  pixels = jnp.clip(system.decode(params, latents, grid) * 0.5 + 0.5, 0, 1)
  return latents, jnp.round(pixels * 255).astype(jnp.uint8)


def _one_image(latents: Array, grid: tuple[int, int]) -> Visual:
  """Rows f[B, h*w, C] of one target image each."""
  shape = latents.shape[:2]
  return Visual(latents=latents, positions=jnp.broadcast_to(image_positions(*grid), (*shape, 3)),
                segments=jnp.ones(shape, jnp.int32), is_target=jnp.ones(shape, bool))


def _refuse_non_finite(latents: np.ndarray, texts: Sequence[str]) -> None:
  for image, text in zip(latents, texts):
    if not np.isfinite(image).all():
      raise user_error('sample', text, 'the latents are not finite, so no image is written; '
                       'sample from an earlier checkpoint, or with a lower --guidance')
