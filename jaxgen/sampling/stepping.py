"""A batch of requests on its way from noise to latents, all at once or one step of the solver each.

With one step each the host is asked between them: every request has levels, and a number of steps,
of its own, and what is done is decoded while the others go on.
"""

import functools

import jax
import jax.numpy as jnp

from jaxgen.core.types import Array
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Params
from jaxgen.objectives import noise
from jaxgen.sampling.guidance import Branches
from jaxgen.sampling.guidance import Velocity
from jaxgen.sampling.guidance import guided_velocity
from jaxgen.sampling.solvers import Carry
from jaxgen.sampling.solvers import SOLVERS
from jaxgen.systems.base import System

LARGEST = 1e3  # latents of images are far below it
# Seeds u32[R, M], and numbers, outputs and images i32[R, M] of a ``batching.RequestBatch``.
Keys = tuple[Array, Array, Array, Array]


def started(system: System, params: Params, branches: Branches, keys: Keys
            ) -> tuple[Conditioning, Array]:
  """The conditioning of R rows, and their noise f32[R, M, C]."""
  conditioning = system.condition(params, branches.batch)
  if system.distilled:
    conditioning = conditioning.replace(guidance=branches.scales)
  return conditioning, noise_of(keys, branches.batch.visual.latents.shape[-1])


@functools.partial(jax.jit, static_argnums=1)
def noise_of(keys: Keys, channels: int) -> Array:
  """The noise f32[R, M, C] of R rows: every image's by its own seed, number and output."""
  seeds, numbers, outputs, images = keys
  image_keys = jax.vmap(jax.random.key)(seeds.ravel()).reshape(seeds.shape)
  image_keys = noise.fold(noise.fold(image_keys, numbers), outputs)
  return noise.image_noise(image_keys, images, channels)


def velocity_of(system: System, params: Params, branches: Branches, conditioning: Conditioning,
                images: Array, renormalize: str) -> Velocity:
  """The guided velocity of the rows; ``images`` as in ``guidance.renormalized``."""
  visual = branches.batch.visual

  def denoise(x_t, t, conditioning):
    return system.denoise(params, x_t, t, visual, conditioning)

  return guided_velocity(denoise, branches, conditioning, images, renormalize)


@functools.partial(jax.jit, static_argnames=('system', 'solver', 'rules'))
def begin(system: System, params: Params, branches: Branches, keys: Keys, *, solver: str,
          rules: tuple) -> tuple[Conditioning, Carry]:
  """Reads the prompts of a batch and draws its noise.

  Args:
    system, params: of the run.
    branches, keys: of the batch, clean latents in their places.
    solver: a key of ``SOLVERS``.
    rules: changes to the sharding rules of the scope, by which JAX does not tell programs apart.

  Returns:
    The conditioning, and what goes from step to step.
  """
  del rules
  conditioning, eps = started(system, params, branches, keys)
  return conditioning, SOLVERS[solver].begin(eps)


@functools.partial(jax.jit, static_argnames=('system', 'solver', 'rules', 'renormalize'),
                   donate_argnames='carry')
def advance(system: System, params: Params, branches: Branches, conditioning: Conditioning,
            carry: Carry, levels: Array, segments: Array, images: Array, *, solver: str,
            rules: tuple, renormalize: str) -> Carry:
  """One step of every request of a batch.

  The latents of a request that went wrong stay so, and do no harm to those beside it in its row.

  Args:
    system, params, branches, solver, rules: as for ``begin``.
    conditioning, carry: of ``begin`` or the step before.
    levels: f32[R, G, K], the row of its solver's table that each request is at; 0 = is done.
    segments, images: i32[R, M], of a ``batching.RequestBatch``.
    renormalize: as ``guidance.renormalized`` takes it.
  """
  del rules
  velocity = velocity_of(system, params, branches, conditioning, images, renormalize)
  rows = jnp.take_along_axis(  # [R, M, K]
      levels, jnp.maximum(segments - 1, 0)[..., None], axis=1)
  return SOLVERS[solver].step(lambda x: velocity(_shown(x), levels[..., 0]), carry, rows)


def _shown(x: Array) -> Array:
  """Latents as the denoiser gets them: attention multiplies those of other requests by 0, which
  takes finite ones away and no others."""
  return jnp.clip(jnp.nan_to_num(x, posinf=0.0, neginf=0.0), -LARGEST, LARGEST)
