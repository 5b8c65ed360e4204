"""Noise levels that a sampler visits, from pure noise (1) to the image (0)."""

import math
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.objectives.timesteps import shift_time


def linear_sigmas(steps: int, shift: float = 1.0, last: float = 0.0) -> np.ndarray:
  """Evenly spaced levels, warped towards the noisy end.

  ``s t / (1 + (s - 1) t)`` is the timestep shift of training (``objective.timestep_shift``),
  applied here exactly once.

  Args:
    steps: solver steps.
    shift: s; 1 leaves the spacing even, more spends more steps near noise.
    last: the warped levels are stretched until the one before 0 is this; 0 leaves them.

  Returns:
    f32[steps + 1], strictly falling from 1 to 0.
  """
  if steps < 1:
    raise user_error('config.sampling.steps', steps, 'use at least 1')
  if shift <= 0:
    raise user_error('config.sampling.timestep_shift', shift, 'use a number above 0')
  even = np.linspace(1.0, 0.0, steps + 1)
  levels = shift_time(even, shift)
  if last and steps > 1:
    levels[:-1] = 1 - (1 - levels[:-1]) * (1 - last) / (1 - levels[-2])
  return levels.astype(np.float32)


def size_shift(tokens: int, line: Sequence[float]) -> float:
  """The timestep shift for an image of so many latent tokens: larger ones need more noise (FLUX).

  Args:
    tokens: of the image.
    line: ``(tokens, mu, tokens, mu)``, two points of the line that gives mu.

  Returns:
    exp(mu).
  """
  low, mu_low, high, mu_high = line
  return math.exp(mu_low + (tokens - low) * (mu_high - mu_low) / (high - low))
