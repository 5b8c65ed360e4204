"""Flow matching on the target tokens of packed rows.

The linear path between data and noise fixes the project's time convention: ``t`` is 0 for data and
1 for noise, x_t = (1 - t) x0 + t eps. The denoiser predicts the velocity v = dx_t/dt = eps - x0
(IOMM section 3.1, L090).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.models.layers import fp8
from jaxgen.models.layers.segments import segment_one_hot
from jaxgen.objectives import noise
from jaxgen.objectives.base import Metrics
from jaxgen.objectives.base import Objective
from jaxgen.objectives.timesteps import sample_timesteps

TIME_BINS = 4


@dataclasses.dataclass(frozen=True)
class FlowMatching(Objective):
  """Squared error of the velocity, averaged over target tokens (F21).

  Every target token of the global batch has the same weight. Clean condition tokens and padding
  are excluded from the mean, so adding references does not change the normalisation, unless
  ``cosmos_mean`` counts clean tokens as Cosmos does (A25).

  Attributes:
    density, mean, std, shift: distribution of the timesteps, see ``sample_timesteps``.
    sources: sorted names of the data sources, for the per-source losses.
    cosmos_mean: clean tokens, whose loss is 0, are part of the mean (L141).
    fp8: fp8 matmuls in the denoiser during training.
  """

  density: str
  mean: float
  std: float
  shift: float
  sources: tuple[str, ...]
  cosmos_mean: bool = False
  fp8: bool = False
  calls = ('condition', 'denoise')

  def __call__(self, system: Any, params: Params, batch: Batch, rng: jax.Array
               ) -> tuple[jax.Array, Metrics]:
    visual = batch.visual
    time_rng, noise_rng, condition_rng = jax.random.split(rng, 3)
    t = self.timesteps(time_rng, batch)  # f32[B, G]
    clean = visual.latents.astype(jnp.float32)  # [B, L, C]
    eps = self.noise(noise_rng, batch)  # [B, L, C]
    owner = segment_one_hot(visual.segments, t.shape[1])  # [B, L, G]
    token_t = jnp.einsum('BLG,BG->BL', owner, t, precision='highest')[..., None]
    x_t = jnp.where(visual.is_target[..., None], interpolate(clean, eps, token_t), clean)
    conditioning = batch.conditioning or system.condition(params, batch, condition_rng)
    with fp8.products(self.fp8):
      predicted = system.denoise(params, x_t, t, visual, conditioning)
    error = jnp.mean((predicted - velocity(clean, eps)) ** 2, axis=-1)  # [B, L]
    weight = _target_weight(batch)
    # The losses are fp32: by default TPUs and GPUs would round them to bf16 or TF32 first.
    sums = jnp.einsum('BL,BLG->BG', error * weight, owner, precision='highest')
    weights = jnp.einsum('BL,BLG->BG', weight, owner, precision='highest')
    return sums.sum(), self._metrics(sums, weights, t, batch.meta.source_ids)

  def weight(self, batch: Batch) -> jax.Array:
    clean = batch.visual.is_clean.sum() if self.cosmos_mean else 0
    return _target_weight(batch).sum() + clean

  def timesteps(self, rng: jax.Array, batch: Batch) -> jax.Array:
    """Draws a timestep per segment, f32[B, G], keyed by the numbers of row and segment."""
    groups = jnp.arange(batch.meta.sample_ids.shape[1])
    keys = noise.fold(noise.fold(rng, batch.meta.rows)[:, None],
                      jnp.broadcast_to(groups, batch.meta.sample_ids.shape))
    return sample_timesteps(keys, density=self.density, mean=self.mean, std=self.std,
                            shift=self.shift)

  def noise(self, rng: jax.Array, batch: Batch) -> jax.Array:
    """Draws the noise, f32[B, L, C], keyed by the numbers of row and image."""
    images = batch.visual.images
    keys = noise.fold(noise.fold(rng, batch.meta.rows)[:, None], images)
    return noise.image_noise(keys, images, batch.visual.latents.shape[-1])

  def _metrics(self, sums: jax.Array, weights: jax.Array, t: jax.Array, source_ids: jax.Array):
    metrics = {}
    time_bin = jnp.clip((t * TIME_BINS).astype(jnp.int32), 0, TIME_BINS - 1)
    for index in range(TIME_BINS):
      chosen = time_bin == index
      name = f'loss_t/{index / TIME_BINS:.2f}-{(index + 1) / TIME_BINS:.2f}'
      metrics[name] = (jnp.sum(sums * chosen), jnp.sum(weights * chosen))
    for index, source in enumerate(self.sources):
      chosen = source_ids == index
      metrics[f'loss_source/{source}'] = (jnp.sum(sums * chosen), jnp.sum(weights * chosen))
    return metrics


def interpolate(x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
  """x_t, the interpolation of ``x0`` and ``noise`` at time ``t`` (broadcastable)."""
  return (1 - t) * x0 + t * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
  """The velocity dx_t/dt, constant along the path."""
  return noise - x0


def _target_weight(batch: Batch) -> jax.Array:
  """f32[B, L], 1 at target tokens."""
  return (batch.visual.is_target & (batch.visual.segments > 0)).astype(jnp.float32)
