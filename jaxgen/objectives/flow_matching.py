"""Flow matching on the target tokens of packed rows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.models.layers import fp8
from jaxgen.models.layers.segments import segment_one_hot
from jaxgen.objectives.interpolant import interpolate
from jaxgen.objectives.interpolant import velocity
from jaxgen.objectives.timesteps import sample_timesteps

TIME_BINS = 4

Terms = tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class FlowMatching:
  """Squared error of the velocity, averaged over target tokens (F21).

  Every target token of the global batch weighs the same; clean condition tokens and padding
  never enter the mean, so adding references leaves the loss unchanged (A25).

  Attributes:
    density, mean, std, shift: of the timesteps, see ``sample_timesteps``.
    tasks: names of the data sources, for the loss of each.
    fp8: the denoiser multiplies hidden units in 8-bit floats.
  """

  density: str
  mean: float
  std: float
  shift: float
  tasks: tuple[str, ...]
  fp8: bool = False
  groups = ('mllm', 'bridge', 'denoiser')

  def __call__(self, system: Any, params: Params, batch: Batch, rng: jax.Array) -> Terms:
    """Returns ``(loss_sum, weight_sum, {name: (sum, weight)})``, all fp32 scalars."""
    visual = batch.visual
    time_rng, noise_rng, condition_rng = jax.random.split(rng, 3)
    t = sample_timesteps(time_rng, batch.meta.task_ids.shape, density=self.density,
                         mean=self.mean, std=self.std, shift=self.shift)
    clean = visual.latents.astype(jnp.float32)
    noise = jax.random.normal(noise_rng, clean.shape, jnp.float32)
    owner = segment_one_hot(visual.segments, t.shape[1])  # f32[B, L, G]
    token_t = jnp.einsum('BLG,BG->BL', owner, t, precision='highest')[..., None]
    x_t = jnp.where(visual.is_target[..., None], interpolate(clean, noise, token_t), clean)
    conditioning = system.condition(params, batch.prompt, condition_rng)
    with fp8.products(self.fp8):
      predicted = system.denoise(params, x_t, t, visual, conditioning)
    error = jnp.mean((predicted - velocity(clean, noise)) ** 2, axis=-1)  # [B, L]
    weight = (visual.is_target & (visual.segments > 0)).astype(jnp.float32)
    sums = jnp.einsum('BL,BLG->BG', error * weight, owner)
    weights = jnp.einsum('BL,BLG->BG', weight, owner)
    return sums.sum(), weights.sum(), self._metrics(sums, weights, t, batch.meta.task_ids)

  def _metrics(self, sums: jax.Array, weights: jax.Array, t: jax.Array, task_ids: jax.Array):
    metrics = {}
    time_bin = jnp.clip((t * TIME_BINS).astype(jnp.int32), 0, TIME_BINS - 1)
    for index in range(TIME_BINS):
      chosen = time_bin == index
      name = f'loss_t/{index / TIME_BINS:.2f}-{(index + 1) / TIME_BINS:.2f}'
      metrics[name] = (jnp.sum(sums * chosen), jnp.sum(weights * chosen))
    for index, task in enumerate(self.tasks):
      chosen = task_ids == index
      metrics[f'loss_task/{task}'] = (jnp.sum(sums * chosen), jnp.sum(weights * chosen))
    return metrics
