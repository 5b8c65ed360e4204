"""What the tests of autoencoders share: pixels, diffusers' order of axes, one program per shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def pixels(*shape, seed=1):
  """f32[*shape, 3] in [-1, 1]."""
  return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def latents(*shape, seed=2):
  """f32[*shape], normal."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def _compiled(module, method):
  return jax.jit(functools.partial(module.apply, method=method))


def run(module, params, method, *args):
  """A method of the module, compiled once for each shape; numpy arrays."""
  return jax.tree.map(np.asarray, _compiled(module, method)({'params': params}, *args))


def channels_first(tensor):
  """f[n, *space, c] as torch has it, f[n, c, *space]."""
  return tensor.movedim(-1, 1)


def channels_last(tensor):
  """The inverse of ``channels_first``."""
  return tensor.movedim(1, -1)


def posterior(model, images):
  """``(mean, logarithm of the variance)`` of a class of diffusers, channels last."""
  found = model.encode(channels_first(images)).latent_dist
  return channels_last(found.mean), channels_last(found.logvar)


def decoded(model, z):
  """Images that a class of diffusers makes of z f[n, *space, c], channels last."""
  return channels_last(model.decode(channels_first(z)).sample)


def assert_bf16_near_fp32(module, params, images):
  """Latents computed in bf16 are those of fp32 to a tenth of their spread, in fp32 arrays."""
  exact = run(module, params, 'encode', images)
  near = run(module.clone(dtype=jnp.bfloat16), params, 'encode', images)
  assert near.dtype == np.float32
  assert 0 < np.abs(near - exact).max() < 0.1 * exact.std()
