"""The schedule and the Euler solver against diffusers, and what guidance computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from jaxgen.core.errors import UserError
from jaxgen.core.types import Conditioning
from jaxgen.sampling.guidance import guided_velocity
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.solvers import euler

SHAPE = (2, 6, 3)


def their_latents(noise: np.ndarray, steps: int, shift: float) -> np.ndarray:
  """What diffusers makes of the noise under ``field``."""
  scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
  scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
  latents = torch.from_numpy(noise)
  for t in scheduler.timesteps:
    velocity = field(latents.numpy(), (t / 1000).numpy())
    latents = scheduler.step(torch.from_numpy(velocity), t, latents).prev_sample
  return latents.numpy()


def field(x, t):
  """A velocity that depends on both arguments, the same in numpy and in jax."""
  return 0.7 * x - x**3 / 10 + t * x[::-1]


@pytest.mark.parametrize('shift', [1.0, 3.0])
def test_fifty_steps_equal_diffusers(shift):
  noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
  ours = jax.jit(lambda x, sigmas: euler(field, x, sigmas))(noise, linear_sigmas(50, shift))
  np.testing.assert_allclose(ours, their_latents(noise, 50, shift), atol=2e-6)


def test_sigmas_are_shifted_once():
  scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
  scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 50, 50))
  np.testing.assert_allclose(linear_sigmas(50, 3.0), scheduler.sigmas.numpy(), atol=1e-7)
  assert linear_sigmas(2, 3.0)[1] == 0.75  # 3/2 / (1 + 2/2)


def test_euler_is_exact_on_a_straight_path():
  image = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
  noise = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
  for sigmas in (linear_sigmas(1), linear_sigmas(7, 2.5)):
    np.testing.assert_allclose(euler(lambda x, t: noise - image, noise, sigmas), image, atol=1e-5)


@pytest.mark.parametrize('steps, shift, field_name', [
    (0, 1.0, 'sampling.steps'), (5, 0.0, 'sampling.timestep_shift')])
def test_bad_schedules(steps, shift, field_name):
  with pytest.raises(UserError, match=field_name):
    linear_sigmas(steps, shift)


def conditioning(values) -> Conditioning:
  states = jnp.asarray(values, jnp.float32)[:, None, None]
  return Conditioning(states=states, positions=jnp.zeros((len(values), 1, 3), jnp.int32),
                      segments=jnp.ones((len(values), 1), jnp.int32))


class Counted:
  """A denoiser whose velocity is its state plus t, and that notes the rows of each call."""

  def __init__(self):
    self.rows = []

  def __call__(self, x, t, conditions):
    self.rows.append(len(x))
    return 0 * x + conditions.states + t[:, None, None]


def test_guidance_formula():
  denoiser = Counted()
  velocity = guided_velocity(denoiser, conditioning([1.0, 2.0]), conditioning([0.5]), 3.0)
  result = velocity(jnp.zeros(SHAPE), jnp.float32(0.25))
  # u + s (c - u), with t added to both.
  expected = np.array([0.5 + 3 * 0.5, 0.5 + 3 * 1.5]) + 0.25
  np.testing.assert_allclose(result, np.broadcast_to(expected[:, None, None], SHAPE), atol=1e-6)
  assert denoiser.rows == [4]


def test_scale_of_the_other_convention():
  gain = 1.5  # c + g (c - u)
  velocity = guided_velocity(Counted(), conditioning([1.0, 2.0]), conditioning([0.5]), 1 + gain)
  result = velocity(jnp.zeros(SHAPE), jnp.float32(0.0))
  expected = np.array([1 + gain * 0.5, 2 + gain * 1.5])
  np.testing.assert_allclose(result[:, 0, 0], expected, atol=1e-6)


def test_no_guidance_runs_one_forward():
  denoiser = Counted()
  velocity = guided_velocity(denoiser, conditioning([1.0, 2.0]), None, 1.0)
  np.testing.assert_allclose(velocity(jnp.zeros(SHAPE), jnp.float32(0.0))[:, 0, 0], [1.0, 2.0])
  assert denoiser.rows == [2]
