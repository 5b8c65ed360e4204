"""Texts to images in batches of one fixed shape, on all devices, the same image for a seed.

The noise of an image is drawn from ``fold_in(key(seed), image id)``: it depends on nothing
else, so neither the batch that an image shares nor the number of devices changes it.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Array
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.core.types import Visual
from jaxgen.data.prompts import encode_prompts
from jaxgen.sampling.guidance import guided_velocity
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.solvers import euler


def generate(system, params: Params, texts: Sequence[str], *, tokenizer, config: ConfigDict,
             seed: int, steps: int = 0, guidance: float | None = None,
             image_ids: Sequence[int] | None = None, rows: int = 16) -> np.ndarray:
  """Draws one image for each text.

  Args:
    system: a system of ``jaxgen.systems``.
    params: all of its parameter groups.
    texts: captions; the empty text is the unconditional image.
    tokenizer: of ``jaxgen.data.tokenizer.load_tokenizer``.
    config: the run's config; ``sampling`` gives the defaults of what is not passed here.
    seed: the same seed and image id give the same image.
    steps: solver steps; 0 takes ``config.sampling.steps``.
    guidance: scale of ``u + s (c - u)``; None takes ``config.sampling.guidance``.
    image_ids: number of each image, by default its place in ``texts``.
    rows: images drawn at once, rounded up to a multiple of the devices.

  Returns:
    uint8[n, H, W, 3].

  Raises:
    UserError: a prompt that is too long, or latents that are not finite.
  """
  scale = config.sampling.guidance if guidance is None else guidance
  sigmas = linear_sigmas(steps or config.sampling.steps, config.sampling.timestep_shift)
  grid = system.latent_grid(config.sampling.size or config.data.image_size)
  ids = np.arange(len(texts)) if image_ids is None else np.asarray(image_ids)
  mesh = jax.make_mesh((jax.device_count(),), ('rows',))
  rows = math.ceil(min(rows, len(texts)) / mesh.size) * mesh.size
  over_rows = jax.NamedSharding(mesh, jax.P('rows'))
  everywhere = jax.NamedSharding(mesh, jax.P())
  encode = functools.partial(encode_prompts, tokenizer=tokenizer, layout=system.layout,
                             data_config=config.data)
  params = jax.device_put(params, everywhere)
  empty = jax.device_put(encode(['']), everywhere) if scale != 1 else None
  images = []
  for start in range(0, len(texts), rows):
    kept = min(rows, len(texts) - start)
    chunk = list(texts[start:start + kept]) + [''] * (rows - kept)
    keys = image_keys(seed, np.resize(ids[start:start + kept], rows))
    prompt, keys = jax.device_put((encode(chunk), keys), over_rows)
    latents, pixels = _sample(system, params, prompt, empty, keys, sigmas, scale, grid)
    _refuse_non_finite(np.asarray(latents[:kept]), texts[start:start + kept])
    images.append(np.asarray(pixels[:kept]))
  return np.concatenate(images)


def image_keys(seed: int, image_ids: Array) -> jax.Array:
  """The random key of each image, key[n]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(image_ids))


def grid_visual(latents: Array, grid: tuple[int, int]) -> Visual:
  """One target image for each row: latents f[B, h*w, C] at positions (0, row, column)."""
  count, tokens, _ = latents.shape
  positions = np.stack([np.zeros(tokens), *np.indices(grid).reshape(2, tokens)], -1)
  return Visual(latents=latents,
                positions=jnp.broadcast_to(positions.astype(np.int32), (count, tokens, 3)),
                segments=jnp.ones((count, tokens), jnp.int32),
                is_target=jnp.ones((count, tokens), bool))


@functools.partial(jax.jit, static_argnums=(0, 7))
def _sample(system, params: Params, prompt: Prompt, empty: Prompt | None, keys: Array,
            sigmas: Array, scale: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
  """Latents f32[B, h*w, C] and images uint8[B, H, W, 3] of one chunk."""
  def velocity(x, t, conditioning):
    return system.denoise(params, x, t[:, None], grid_visual(x, grid), conditioning)

  conditional = system.condition(params, prompt)
  unconditional = None if empty is None else system.condition(params, empty)
  shape = (grid[0] * grid[1], system.latent_channels)
  noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
  latents = euler(guided_velocity(velocity, conditional, unconditional, scale), noise, sigmas)
  pixels = jnp.clip(system.decode(params, latents, grid) * 0.5 + 0.5, 0, 1)
  return latents, jnp.round(pixels * 255).astype(jnp.uint8)


def _refuse_non_finite(latents: np.ndarray, texts: Sequence[str]) -> None:
  for image, text in zip(latents, texts, strict=True):
    if not np.isfinite(image).all():
      raise user_error('sample', text, 'the latents are not finite, so no image is written; '
                       'sample from an earlier checkpoint, or with a lower --guidance')
