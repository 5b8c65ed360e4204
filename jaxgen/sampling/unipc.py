"""UniPC of order 2 on the flow ODE: a multistep predictor and a corrector without further forwards.

Every update is a linear combination of a latent and of the last predictions of the image, with
coefficients that depend on the noise levels alone. They are computed once, as a table. Source:
UniPC (Zhao et al. 2023), algorithms 1 and 2 with B(h) = e^h - 1 for data prediction, as Wan and
Cosmos-Predict use it. The order is 1 in the first and in the last step.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxgen.core.types import Array

# Pure noise has no signal whose logarithm could be taken.
MOST_NOISE = 1 - 1e-6


def table(sigmas: np.ndarray) -> np.ndarray:
  """What each step needs.

  Args:
    sigmas: f32[steps + 1], levels that fall to 0.

  Returns:
    f32[steps, 9]: t, three coefficients of the predictor and five of the corrector.
  """
  sigmas = np.minimum(np.asarray(sigmas, np.float32), np.float32(MOST_NOISE))
  with np.errstate(divide='ignore'):  # no noise has no logarithm: the last step is infinite in it
    tables = np.concatenate([sigmas[:-1, None], *_tables(sigmas)], axis=1)
  return tables.astype(np.float32)


def begin(noise: Array) -> tuple[Array, ...]:
  """f32[B, L, C] of noise as (predicted, corrected one step earlier, images predicted)."""
  x = noise.astype(jnp.float32)
  zeros = jnp.zeros_like(x)
  return x, zeros, zeros, zeros


def step(velocity: Callable[[Array], Array], carry: tuple[Array, ...], row: Array
         ) -> tuple[Array, ...]:
  """One step of second order, with one forward.

  Args:
    velocity: ``x f32[B, L, C] -> v f32[B, L, C]`` at the step's t.
    carry: as ``begin`` returns it.
    row: f32[9] or f32[B, L, 9], of ``table``.
  """
  x, before, last, older = carry
  image = x - row[..., :1] * velocity(x)
  x = _combined(row[..., 4:], x, before, image, last, older)
  return _combined(row[..., 1:4], x, image, last), x, image, last


def _tables(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Coefficients of every step.

  Args:
    sigmas: f32[steps + 1], s_0 > ... > s_steps = 0; below 1.

  Returns:
    predictor: f32[steps, 3], of (x_i, image_i, image_{i-1}) in x_{i+1}.
    corrector: f32[steps, 5], of (predicted x_i, corrected x_{i-1}, image_i, image_{i-1},
      image_{i-2}) in the corrected x_i.
  """
  steps = sigmas.shape[0] - 1
  index = np.arange(steps)
  second = (index > 0) & (index < steps - 1)  # where the order is 2
  signal = 1 - sigmas
  log_snr = np.log(signal) - np.log(sigmas)
  h = log_snr[1:] - log_snr[:-1]  # of the step from i to i + 1; infinite in the last one
  decay = np.expm1(-h)
  kept, gain = sigmas[1:] / sigmas[:-1], -signal[1:] * decay  # order 1: kept x + gain image
  ratio = np.where(second, (np.roll(log_snr[:-1], 1) - log_snr[:-1]) / h, 1.0)

  slope = np.where(second, 0.5 / ratio, 0.0)  # of image_{i-1} - image_i
  predictor = np.stack([kept, gain * (1 - slope), gain * slope], axis=1)

  # The corrector of step i + 1 goes over step i again, now that image_{i+1} is known too: the
  # slopes solve new + old = b_1 and new + ratio old = b_2.
  phi = -decay / h - 1
  b_1, b_2 = phi / decay, 2 * (-phi / h - 0.5) / decay
  old = np.where(second, (b_1 - b_2) / np.where(second, 1 - ratio, 1.0), 0.0)
  new = np.where(second, b_1 - old, 0.5)
  old = old / ratio
  again = np.stack([np.zeros(steps), kept, gain * new, gain * (1 - new - old), gain * old],
                   axis=1)
  unchanged = np.float32([[1, 0, 0, 0, 0]])  # before the first step there is none
  return predictor, np.concatenate([unchanged, again[:-1]])


def _combined(weights: Array, *terms: Array) -> Array:
  """The sum of the terms f32[B, L, C], with weights f32[n] or f32[B, L, n]."""
  return sum(weights[..., k:k + 1] * term for k, term in enumerate(terms))
