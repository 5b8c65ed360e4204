"""Noise levels that a sampler visits, from pure noise (1) to the image (0)."""

import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.objectives.timesteps import shift_time


def linear_sigmas(steps: int, shift: float = 1.0) -> np.ndarray:
  """Evenly spaced levels, warped towards the noisy end.

  ``s t / (1 + (s - 1) t)`` is the timestep shift of training (``objective.timestep_shift``),
  applied here exactly once.

  Args:
    steps: solver steps.
    shift: s; 1 leaves the spacing even, more spends more steps near noise.

  Returns:
    f32[steps + 1], strictly falling from 1 to 0.
  """
  if steps < 1:
    raise user_error('config.sampling.steps', steps, 'use at least 1')
  if shift <= 0:
    raise user_error('config.sampling.timestep_shift', shift, 'use a number above 0')
  even = np.linspace(1.0, 0.0, steps + 1)
  return shift_time(even, shift).astype(np.float32)
