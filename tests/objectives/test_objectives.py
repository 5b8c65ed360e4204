"""Loss terms against plain loops, timestep densities against their distribution functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.core.types import Batch
from jaxgen.core.types import Meta
from jaxgen.core.types import Visual
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.flow_matching import interpolate
from jaxgen.objectives.flow_matching import velocity
from jaxgen.objectives.timesteps import sample_timesteps
from jaxgen.objectives.timesteps import shift_time


class Still:
  """A system that predicts x_t itself, so that the loss tells how x_t was made."""

  def condition(self, params, batch, rng):
    del params, batch, rng

  def denoise(self, params, x_t, t, visual, conditioning):
    del params, t, visual, conditioning
    return x_t


def _batch(rng, rows=2, targets=(3, 2), conditions=2, padding=2, groups=3):
  """Rows of ``len(targets)`` segments: each its targets, then clean conditions; then padding."""
  segments, images, is_target = [], [], []
  for index, count in enumerate(targets, start=1):
    segments += [index] * (count + conditions)
    images += [2 * index - 1] * count + [2 * index] * conditions
    is_target += [True] * count + [False] * conditions
  segments += [0] * padding
  images += [0] * padding
  is_target += [False] * padding
  length = len(segments)
  visual = Visual(
      latents=rng.normal(size=(rows, length, 4)).astype(np.float32),
      positions=np.zeros((rows, length, 3), np.int32),
      segments=np.tile(np.int32(segments), (rows, 1)),
      images=np.tile(np.int32(images), (rows, 1)),
      is_target=np.tile(np.array(is_target), (rows, 1)))
  ids = np.full((rows, groups), -1, np.int32)
  ids[:, :len(targets)] = np.arange(rows * len(targets)).reshape(rows, -1) % 2
  return Batch(visual=visual, prompt=None,
               meta=Meta(sample_ids=ids, source_ids=ids, rows=np.arange(rows, dtype=np.int32)))


OBJECTIVE = FlowMatching('uniform', 0.0, 1.0, 1.0, ('first', 'second'))


def test_cosmos_mean_counts_clean_tokens_with_a_loss_of_zero():
  """The loss is diluted by their share (L141, A25)."""
  batch, key = _batch(np.random.default_rng(0)), jax.random.key(1)
  diluted = dataclasses.replace(OBJECTIVE, cosmos_mean=True)
  assert float(OBJECTIVE.weight(batch)) == 10 and float(diluted.weight(batch)) == 10 + 8
  assert float(diluted(Still(), {}, batch, key)[0]) == float(OBJECTIVE(Still(), {}, batch, key)[0])


def test_flow_matching_is_the_mean_over_target_tokens_of_a_plain_loop():
  batch, key = _batch(np.random.default_rng(0)), jax.random.key(1)
  loss, metrics = OBJECTIVE(Still(), {}, batch, key)
  time_key, noise_key, _ = jax.random.split(key, 3)
  t = np.asarray(OBJECTIVE.timesteps(time_key, batch))
  noise = np.asarray(OBJECTIVE.noise(noise_key, batch))
  total, count, by_source = 0.0, 0, {'first': [], 'second': []}
  for row in range(2):
    for token in range(batch.visual.latents.shape[1]):
      if batch.visual.is_target[row, token]:
        segment = batch.visual.segments[row, token] - 1
        x0, eps, s = batch.visual.latents[row, token], noise[row, token], t[row, segment]
        error = np.mean(((1 - s) * x0 + s * eps - (eps - x0)) ** 2)
        total, count = total + error, count + 1
        by_source[('first', 'second')[batch.meta.source_ids[row, segment]]].append(error)
  assert float(OBJECTIVE.weight(batch)) == count == 10
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  for source, errors in by_source.items():
    part, share = metrics[f'loss_source/{source}']
    np.testing.assert_allclose([part, share], [sum(errors), len(errors)], rtol=1e-5)
  bins = [value for name, value in metrics.items() if name.startswith('loss_t/')]
  np.testing.assert_allclose(sum(float(part) for part, _ in bins), total, rtol=1e-5)


def test_conditions_and_padding_change_nothing():
  """Values of condition and padding tokens never reach the loss of a token-wise system (F21)."""
  batch, key = _batch(np.random.default_rng(0)), jax.random.key(1)
  other = np.where(batch.visual.is_target[..., None], batch.visual.latents, 7.0)
  changed = batch.replace(visual=batch.visual.replace(latents=other))
  before, after = (OBJECTIVE(Still(), {}, each, key)[0] for each in (batch, changed))
  np.testing.assert_array_equal(before, after)


def test_noise_and_time_belong_to_row_and_image_however_the_batch_is_divided():
  batch, key = _batch(np.random.default_rng(0), rows=4), jax.random.key(1)
  whole = (OBJECTIVE.noise(key, batch), OBJECTIVE.timesteps(key, batch))
  part = jax.tree.map(lambda leaf: leaf[2:], batch)
  for full, alone in zip(whole, (OBJECTIVE.noise(key, part), OBJECTIVE.timesteps(key, part))):
    np.testing.assert_array_equal(full[2:], alone)
    assert len(np.unique(np.asarray(full).ravel())) > 0.9 * full.size
  # An image that comes a token later has the same noise.
  later = jax.tree.map(lambda leaf: np.roll(leaf, 1, axis=1) if leaf.shape[1:2] == (11,) else leaf,
                       batch)
  moved = np.asarray(OBJECTIVE.noise(key, later))
  np.testing.assert_array_equal(moved[:, 1:10], np.asarray(whole[0])[:, :9])
  noise = np.asarray(OBJECTIVE.noise(key, _batch(np.random.default_rng(0), rows=500)))
  assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_condition_tokens_enter_the_denoiser_clean():
  seen = {}

  class Recorder(Still):
    def denoise(self, params, x_t, t, visual, conditioning):
      seen['x_t'] = x_t
      return x_t

  batch = _batch(np.random.default_rng(0))
  OBJECTIVE(Recorder(), {}, batch, jax.random.key(0))
  clean = ~batch.visual.is_target
  np.testing.assert_array_equal(np.asarray(seen['x_t'])[clean], batch.visual.latents[clean])
  assert not np.allclose(np.asarray(seen['x_t'])[~clean], batch.visual.latents[~clean])


@pytest.mark.parametrize('density, mean, std, shift', [
    ('uniform', 0.0, 1.0, 1.0), ('uniform', 0.0, 1.0, 5.0),
    ('logit_normal', 0.0, 1.0, 1.0), ('logit_normal', 0.5, 0.8, 3.0)])
def test_timesteps_follow_their_distribution_function(density, mean, std, shift):
  t = np.asarray(sample_timesteps(jax.random.split(jax.random.key(0), 100_000), density=density,
                                  mean=mean, std=std, shift=shift))

  def cdf(x):
    unshifted = x / (shift - (shift - 1) * x)
    if density == 'uniform':
      return unshifted
    with np.errstate(divide='ignore'):
      return stats.norm.cdf((np.log(unshifted) - np.log1p(-unshifted) - mean) / std)

  assert t.dtype == np.float32 and t.min() >= 0 and t.max() <= 1
  assert stats.kstest(t, cdf).statistic < 1.95 / np.sqrt(len(t))  # p = 0.001


def test_path_and_velocity_agree():
  x0, noise = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
  np.testing.assert_array_equal(interpolate(x0, noise, 0.0), x0)
  np.testing.assert_array_equal(interpolate(x0, noise, 1.0), noise)
  slope = jax.jacfwd(lambda t: interpolate(x0, noise, t))(0.3)
  np.testing.assert_allclose(slope, velocity(x0, noise), rtol=1e-6)
  np.testing.assert_allclose(shift_time(jnp.array([0.0, 0.5, 1.0]), 3.0), [0.0, 0.75, 1.0])
