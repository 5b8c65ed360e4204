"""Kernels in eight bits: how near they are, what they weigh, what may not have them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.layers.quantized import chosen_kernels
from jaxgen.models.layers.quantized import quantize
from jaxgen.models.layers.quantized import quantized_axes

RULES = {name: (('.*', name),) for name in ('int8', 'fp8')}


@pytest.fixture(scope='module')
def tower():
  """An InternVL whose kernels are most of its weight, and states for its decoder."""
  module = registry.build(registry.section(
      'internvl', vision=dict(image_size=8, patch_size=4, width=64, layers=2, heads=2, mlp=128),
      text=dict(vocab=16, width=64, layers=3, heads=4, kv_heads=2, mlp=256, remat='full')),
      jnp.float32)
  params = nn.unbox(registry.init(module, jax.random.key(0)))['params']
  rng = np.random.default_rng(0)
  ids = jnp.tile(jnp.arange(12, dtype=jnp.int32), (2, 1))
  states = jnp.asarray(rng.normal(size=(2, 12, 64)), jnp.float32)

  @jax.jit
  def run(params, states):
    """Decoded states and a gradient by what went in, as the adapter before a frozen model has."""
    decode = functools.partial(module.apply, {'params': params}, positions=ids,
                               segments=jnp.ones_like(ids), method='decode')
    out, pull = jax.vjp(decode, states)
    return out, pull(jnp.ones_like(out))[0]

  return params, registry.param_axes(module), functools.partial(run, states=states)


def dequantized(params):
  """Floating-point kernels of the same values, whatever made them."""
  flat = trees.flatten(params)
  for path in [path for path in flat if path.endswith('/kernel_scale')]:
    scale, kernel = flat.pop(path), flat[path.removesuffix('_scale')]
    layers = 1 if '/layers/' in path else 0
    inputs = kernel.ndim - scale.ndim
    scale = scale.reshape(scale.shape[:layers] + (1,) * inputs + scale.shape[layers:])
    flat[path.removesuffix('_scale')] = kernel.astype(jnp.float32) * scale
  return trees.unflatten(flat)


# The largest error over the largest value, of outputs and gradients; int8 has the finer steps.
@pytest.mark.parametrize('name, largest, cosine, bits', [
    ('int8', 0.02, 0.9998, 7), ('fp8', 0.1, 0.997, 4)])
def test_a_scanned_tower_stays_close_and_takes_a_byte_for_each_weight(
    tower, name, largest, cosine, bits):
  params, axes, run = tower
  kernels = chosen_kernels(axes, RULES[name])
  small = quantize(params, axes, kernels)
  flat, before = trees.flatten(small), trees.flatten(params)
  for path in kernels:
    assert flat[path].dtype.itemsize == 1 and flat[path].shape == before[path].shape
    error = np.abs(trees.flatten(dequantized(small))[path] - before[path]).max()
    assert 0 < error <= 2.0**-bits * np.abs(before[path]).max()
  assert {path for path in before if flat[path].dtype == jnp.float32} == before.keys() - kernels
  weigh = lambda tree: sum(tree[path].nbytes for path in kernels)
  scales = sum(flat[f'{path}_scale'].nbytes for path in kernels)
  assert weigh(flat) == weigh(before) / 4 and scales < 0.1 * weigh(flat)
  for ours, theirs in zip(run(small), run(params)):
    assert 0 < np.abs(ours - theirs).max() < largest * np.abs(theirs).max()
    assert np.vdot(ours, theirs) > cosine * np.linalg.norm(ours) * np.linalg.norm(theirs)
  for ours, theirs in zip(run(small), run(dequantized(small))):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_heads_and_layers_have_scales_of_their_own(tower):
  params, axes, _ = tower
  kernels = chosen_kernels(axes, RULES['int8'])
  flat, names = (trees.flatten(tree) for tree in (
      quantize(params, axes, kernels), quantized_axes(axes, kernels)))
  assert flat.keys() == names.keys()
  attention = 'text/decoder/layers/attention'
  q, out = f'{attention}/q/kernel_scale', f'{attention}/out/kernel_scale'
  assert (flat[q].shape, names[q]) == ((3, 4, 16), ('layers', 'heads', 'head_dim'))
  assert (flat[out].shape, names[out]) == ((3, 64), ('layers', 'embed'))
  assert not [path for path in flat if 'embedding' in path and path.endswith('scale')]


@pytest.mark.parametrize('name', ['int8', 'fp8'])
def test_kernels_in_host_memory_pass_over_a_device_layer_by_layer(tower, name, monkeypatch):
  params, axes, _ = tower
  kernels, names = chosen_kernels(axes, RULES[name]), trees.flatten(axes)
  wanted, host = quantize(params, axes, kernels), jax.tree.map(np.asarray, params)
  held, plain = [], qwix.quantize

  def on_devices():
    return sum(leaf.nbytes for leaf in jax.live_arrays())

  def observed(array, *args, **options):
    held.append((array.nbytes, on_devices() - before))
    return plain(array, *args, **options)

  before = on_devices()
  monkeypatch.setattr(qwix, 'quantize', observed)
  small = quantize(host, axes, kernels)
  assert on_devices() == before
  # One layer of one kernel is all that a device holds at any time.
  layers = {path: leaf.shape[0] if names[path][0] == 'layers' else 1
            for path, leaf in trees.flatten(host).items() if path in kernels}
  assert len(held) == sum(layers.values()) > 2 * len(kernels)
  assert all(live <= size for size, live in held)
  assert {size for size, _ in held} == {
      trees.flatten(host)[path].nbytes // count for path, count in layers.items()}
  jax.tree.map(np.testing.assert_array_equal, small, wanted)


def test_the_first_rule_counts_and_one_without_a_kernel_is_named(tower):
  _, axes, _ = tower
  chosen = chosen_kernels(axes, (('.*/mlp/.*', 'fp8'), ('text/.*', 'int8')))
  assert chosen['text/decoder/layers/mlp/up/kernel'] == 'fp8'
  assert chosen['text/decoder/layers/attention/q/kernel'] == 'int8'
  assert 'vision/layers/attention/q/kernel' not in chosen
  with pytest.raises(UserError, match=r"model\.quantized = 'text/embedding': matches no kernel"):
    chosen_kernels(axes, (('text/embedding', 'int8'),))


def test_convolutions_keep_their_floats():
  axes = registry.param_axes(registry.build(registry.section(
      'kl', channels=4, block_channels=(8, 8), layers_per_block=1, norm_groups=4), jnp.float32))
  assert 'decoder/conv_in/kernel' in trees.flatten(axes)
  with pytest.raises(UserError, match='matches no kernel of a linear module'):
    chosen_kernels(axes, RULES['int8'])
