"""The schedule and the solvers against diffusers, and what guidance computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import UniPCMultistepScheduler

from jaxgen.core.errors import UserError
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Meta
from jaxgen.core.types import Visual
from jaxgen.sampling.guidance import Branches
from jaxgen.sampling.guidance import guided_velocity
from jaxgen.sampling.guidance import renormalized
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.solvers import SOLVERS
from jaxgen.sampling.solvers import euler
from jaxgen.sampling.solvers import unipc

SHAPE = (2, 6, 3)


def field(x, t):
  """A velocity that depends on both arguments, the same in numpy and in jax."""
  return 0.7 * x - x**3 / 10 + t * x[::-1]


def their_latents(scheduler, noise: np.ndarray) -> np.ndarray:
  """What a scheduler of diffusers makes of the noise under ``field``."""
  latents = torch.from_numpy(noise)
  for sigma, t in zip(scheduler.sigmas.numpy(), scheduler.timesteps):
    velocity = field(latents.numpy(), sigma)
    latents = scheduler.step(torch.from_numpy(velocity), t, latents).prev_sample
  return latents.numpy()


def solved(solver, velocity, noise, sigmas):
  """What the compiled solver makes of the noise."""
  return jax.jit(lambda noise: solver(velocity, noise, sigmas))(noise)


def noise_of(seed: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize('shift', [1.0, 3.0])
def test_fifty_euler_steps_equal_diffusers(shift):
  scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
  scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 50, 50))
  ours = solved(euler, field, noise_of(0), linear_sigmas(50, shift))
  np.testing.assert_allclose(ours, their_latents(scheduler, noise_of(0)), atol=2e-6)


@pytest.mark.parametrize('steps, shift', [(1, 1.0), (2, 1.0), (10, 1.0), (35, 5.0)])
def test_unipc_equals_diffusers(steps, shift):
  """On our levels and on those that diffusers would choose by itself."""
  scheduler = UniPCMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True,
                                      flow_shift=shift, solver_order=2)
  scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
  np.testing.assert_allclose(solved(unipc, field, noise_of(0), linear_sigmas(steps, shift)),
                             their_latents(scheduler, noise_of(0)), atol=1e-5)
  scheduler.set_timesteps(steps)
  np.testing.assert_allclose(solved(unipc, field, noise_of(0), scheduler.sigmas.numpy()),
                             their_latents(scheduler, noise_of(0)), atol=1e-5)


def test_unipc_is_more_exact_than_euler():
  exact = euler(field, noise_of(0), linear_sigmas(4000))
  errors = {name: np.abs(solved(solver, field, noise_of(0), linear_sigmas(10)) - exact).max()
            for name, solver in SOLVERS.items()}
  assert errors['unipc'] < errors['euler'] / 5


def test_sigmas_are_shifted_once():
  scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
  scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 50, 50))
  np.testing.assert_allclose(linear_sigmas(50, 3.0), scheduler.sigmas.numpy(), atol=1e-7)
  assert linear_sigmas(2, 3.0)[1] == 0.75  # 3/2 / (1 + 2/2)


@pytest.mark.parametrize('solver', sorted(SOLVERS))
def test_a_straight_path_is_solved_exactly(solver):
  image, noise = noise_of(1), noise_of(2)
  for sigmas in (linear_sigmas(1), linear_sigmas(7, 2.5)):
    ours = solved(SOLVERS[solver], lambda x, t: noise - image, noise, sigmas)
    np.testing.assert_allclose(ours, image, atol=1e-5)


@pytest.mark.parametrize('steps, shift, field_name', [
    (0, 1.0, 'sampling.steps'), (5, 0.0, 'sampling.timestep_shift')])
def test_bad_schedules(steps, shift, field_name):
  with pytest.raises(UserError, match=field_name):
    linear_sigmas(steps, shift)


class Told:
  """A denoiser whose velocity is the state of its row plus the mean of what the row holds."""

  def __init__(self):
    self.x_t = None

  def __call__(self, x_t, t, conditioning):
    self.x_t = np.asarray(x_t)
    return 0 * x_t + conditioning.states + x_t.mean(1, keepdims=True) + t[:, :1, None]


def two_branches(weights, clean) -> tuple[Branches, Conditioning]:
  """One row of two solved tokens; branch 0 has a clean token before them, branch 1 has none."""
  is_target = np.array([[False, True, True], [True, True, False]])
  segments = np.array([[1, 1, 1], [1, 1, 0]])
  latents = np.zeros((2, 3, 1), np.float32)
  latents[0, 0] = clean
  zeros = np.zeros((2, 3), np.int32)
  visual = Visual(latents=latents, positions=np.zeros((2, 3, 3), np.int32), segments=segments,
                  images=segments, is_target=is_target)
  batch = Batch(visual=visual, prompt=None, meta=Meta(zeros[:, :1], zeros[:, :1], zeros[:, 0]))
  branches = Branches(
      batch, token_of=np.array([[[1, 2], [0, 1]]]), target_of=np.array([[[0, 0, 1], [0, 1, 0]]]),
      weights=np.float32(weights)[None, :, None] * np.ones((1, 2, 2), np.float32),
      scales=np.ones((2, 1), np.float32))
  return branches, Conditioning(states=jnp.array([[[1.0]], [[0.5]]]), positions=None,
                                segments=None)


def test_only_target_tokens_move_and_branches_are_summed():
  branches, conditioning = two_branches([3.0, -2.0], clean=9.0)
  denoise = Told()
  x = jnp.array([[[2.0], [4.0]]])
  velocity = guided_velocity(denoise, branches, conditioning)(x, jnp.float32(0.25))
  np.testing.assert_array_equal(denoise.x_t[..., 0], [[9.0, 2.0, 4.0], [2.0, 4.0, 0.0]])
  expected = 3 * (1.0 + 15 / 3 + 0.25) - 2 * (0.5 + 6 / 3 + 0.25)
  np.testing.assert_allclose(velocity[..., 0], [[expected, expected]], atol=1e-6)


def test_scale_of_the_other_convention():
  gain = 1.5  # c + g (c - u)
  branches, conditioning = two_branches([1 + gain, -gain], clean=0.0)
  velocity = guided_velocity(Told(), branches, conditioning)(
      jnp.zeros((1, 2, 1)), jnp.float32(0.0))
  np.testing.assert_allclose(velocity[..., 0], 1.0 + gain * 0.5 * np.ones((1, 2)), atol=1e-6)


def test_lengths_after_guidance():
  """The formulas of Qwen-Image's and Z-Image's pipelines, written with torch."""
  told, guided = (np.random.default_rng(seed).normal(size=(1, 6, 3)).astype(np.float32) * scale
                  for seed, scale in ((0, 1.0), (1, 2.0)))
  guided[:, 3:5] *= 0.01  # an image that has become shorter stays so
  images = np.array([[1, 1, 1, 2, 2, 0]])
  c, v = torch.tensor(told), torch.tensor(guided)
  norms = [torch.norm(x, dim=-1, keepdim=True) for x in (c, v)]
  np.testing.assert_allclose(renormalized(guided, told, images, 'token'),
                             v * (norms[0] / norms[1]), rtol=1e-5)
  found = np.asarray(renormalized(guided, told, images, 'image'))
  for number in (1, 2):
    own = images[0] == number
    limit, length = (torch.linalg.vector_norm(x[0, own]) for x in (c, v))
    expected = v[0, own] * (limit / length if length > limit else 1)
    np.testing.assert_allclose(found[0, own], expected, rtol=1e-5)
  np.testing.assert_array_equal(renormalized(guided, told, None, 'none'), guided)
  nothing = np.zeros_like(guided)
  assert np.isfinite(renormalized(nothing, nothing, images, 'token')).all()
