"""Attention kernels: equal to the definition, chosen by platform, split over a mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.mmdit import MMDiTConfig
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.kernels import cpu
from jaxgen.models.layers.kernels import dispatch
from jaxgen.models.layers.kernels import splash
from jaxgen.models.layers.kernels import xla
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility
from jaxgen.sharding import partition
from jaxgen.sharding import rules
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.rules import RULES

ROWS, LENGTH, KEYS, HEADS, SIZE = 2, 150, 210, 4, 40  # nothing is a multiple of a block
# The kernel as plain operations, so that it runs here, for rows of any length.
SPLASH = Kernel(lambda q, k: True, functools.partial(splash.forward, interpret=True),
                functools.partial(splash.backward, interpret=True))
RING = rules.with_changes([('keys', ('context',), True)])
TARGETS = {'tpu': 'tpu_custom_call', 'cuda': '__cudnn$fmha'}


def make_inputs(kv_heads, segments, causal, rows=ROWS, dtype=np.float32):
  """Random (q, k, v, Visibility, gradient), heads first; some queries see nothing."""
  rng = np.random.default_rng(0)

  def normal(heads, length):
    return rng.normal(size=(rows, heads, length, SIZE)).astype(dtype)

  def numbers(low, high, length):
    return rng.integers(low, high, (rows, length)).astype(np.int32)

  visibility = Visibility()
  if segments:  # segment 4 has queries only
    visibility = Visibility(numbers(0, 5, LENGTH), numbers(0, 4, KEYS))
  if causal:  # in no order; position 0 comes before all keys
    visibility = visibility._replace(
        q_positions=numbers(0, 40, LENGTH), kv_positions=numbers(1, 50, KEYS))
  q, k, v = normal(HEADS, LENGTH), normal(kv_heads, KEYS), normal(kv_heads, KEYS)
  return q / np.sqrt(SIZE).astype(dtype), k, v, visibility, normal(HEADS, LENGTH)


@functools.partial(jax.jit, static_argnums=0)
def both_ways(kernel, q, k, v, visibility, gradient):
  """What the kernel gives forwards and backwards."""
  out, logsumexp = kernel.forward(q, k, v, visibility)
  return out, *kernel.backward(q, k, v, visibility, out, logsumexp, gradient)


@pytest.mark.parametrize('segments, causal, kv_heads', [
    (True, False, 4), (False, True, 2), (True, True, 1), (False, False, 2)])
def test_splash_equals_plain_products_forwards_and_backwards(segments, causal, kv_heads):
  inputs = make_inputs(kv_heads, segments, causal)
  sees = inputs[3].sees()
  ours = both_ways(SPLASH, *inputs)
  for result, expected in zip(ours, both_ways(xla.KERNEL, *inputs), strict=True):
    np.testing.assert_allclose(result, expected, atol=2e-5)
  if segments or causal:
    assert not sees.all()
    for result in ours[:2]:  # the output, and the gradient by the queries
      blind = result.transpose(0, 2, 1, 3)[~sees]
      assert not blind.any()


@pytest.mark.parametrize('rows, length, keys, order', [
    (1, 1000, 1000, 'as they stand'), (1, 1024, 1024, 'shuffled'), (1, 1024, 1024, 'none'),
    (1, 500, 500, 'as they stand'), (1, 300, 2100, 'none'), (2, 700, 1100, 'shuffled'),
    (5, 400, 400, 'as they stand')])
def test_long_rows_on_cpus_equal_plain_products_forwards_and_backwards(rows, length, keys, order):
  """Heads in turn and in pieces; two prompts and some padding in each row."""
  rng = np.random.default_rng(0)
  q, gradient = rng.normal(size=(2, rows, HEADS, length, 8)).astype(np.float32)
  k, v = rng.normal(size=(2, rows, 2, keys, 8)).astype(np.float32)
  assert (length * keys > cpu.CACHED_SCORES_OF_HEAD
          or rows * HEADS * length * keys > cpu.CACHED_SCORES)

  def tokens(count):
    segments = np.repeat([1, 2, 0], [count // 2, count // 2 - 20, count - count // 2 * 2 + 20])
    positions = rng.permutation(count) if order == 'shuffled' else np.arange(count)
    return [np.tile(x, (rows, 1)).astype(np.int32) for x in (segments, positions)]

  (q_segments, q_positions), (kv_segments, kv_positions) = tokens(length), tokens(keys)
  visibility = Visibility(q_segments, kv_segments)
  if order != 'none':
    visibility = visibility._replace(q_positions=q_positions, kv_positions=kv_positions)
  inputs = q, k, v, visibility, gradient
  for result, expected in zip(both_ways(cpu.KERNEL, *inputs), both_ways(xla.KERNEL, *inputs),
                              strict=True):
    np.testing.assert_allclose(result, expected, atol=3e-5)


def test_splash_of_rows_that_see_nothing_is_zero_with_zero_gradients():
  q, k, v, visibility, gradient = make_inputs(4, True, False)
  visibility = visibility._replace(q_segments=np.zeros_like(visibility.q_segments))
  for result in both_ways(SPLASH, q, k, v, visibility, gradient):
    np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize('length, block', [
    (1, 128), (128, 128), (300, 384), (512, 512), (1152, 384), (4096, 512), (4608, 512)])
def test_blocks_pad_least(length, block):
  assert splash.block_of(length) == block


@jax.jit
def attend_and_pull(q, k, v, visibility, gradient):
  """``attend`` on tokens-first arrays, with its gradients."""
  out, pull_back = jax.vjp(
      lambda *qkv: attend(*qkv, **visibility._asdict()), *(x.swapaxes(1, 2) for x in (q, k, v)))
  return out, *pull_back(gradient.swapaxes(1, 2))


def lowered(platform, shape, keys, dtype, **masks):
  """The program of ``attend`` and its gradients for a platform that this machine lacks."""
  rows, heads, length, size = shape
  q = jax.ShapeDtypeStruct(shape, dtype)
  k = jax.ShapeDtypeStruct((rows, heads // 2, keys, size), dtype)
  lengths = {'q': length, 'kv': keys}
  visibility = Visibility(**{
      name: jax.ShapeDtypeStruct((rows, lengths[name.split('_')[0]]), jnp.int32)
      for name, given in Visibility()._replace(**masks)._asdict().items() if given})
  return attend_and_pull.trace(q, k, k, visibility, q).lower(
      lowering_platforms=(platform,)).as_text()


SEGMENTS = dict(q_segments=True, kv_segments=True)
POSITIONS = dict(q_positions=True, kv_positions=True)


@pytest.mark.parametrize('platform, shape, keys, dtype, masks, calls', [
    ('tpu', (2, 4, 300, 64), 200, jnp.bfloat16, SEGMENTS, 3),
    ('tpu', (2, 4, 256, 128), 256, jnp.float32, {}, 3),
    ('tpu', (2, 4, 256, 72), 130, jnp.bfloat16, SEGMENTS | POSITIONS, 3),
    ('tpu', (2, 4, 1, 64), 256, jnp.bfloat16, SEGMENTS | POSITIONS, 0),  # a decoding step
    ('tpu', (2, 4, 256, 64), 77, jnp.bfloat16, SEGMENTS, 0),  # a short prompt
    ('cuda', (2, 4, 300, 64), 201, jnp.bfloat16, SEGMENTS, 2),
    ('cuda', (2, 4, 256, 128), 77, jnp.float16, {}, 2),
    ('cuda', (2, 4, 256, 72), 130, jnp.bfloat16, SEGMENTS | POSITIONS, 2),
    ('cuda', (2, 4, 256, 64), 256, jnp.float32, SEGMENTS, 0),  # full precision
    ('cuda', (2, 4, 256, 256), 256, jnp.bfloat16, SEGMENTS, 0),  # wide heads
    ('cuda', (2, 4, 256, 44), 256, jnp.bfloat16, SEGMENTS, 0),  # no multiple of 8
    ('cuda', (2, 4, 1, 64), 256, jnp.bfloat16, SEGMENTS, 0),  # a decoding step
    ('rocm', (2, 4, 256, 64), 256, jnp.bfloat16, SEGMENTS, 0),
    ('cpu', (2, 4, 256, 64), 256, jnp.bfloat16, SEGMENTS, 0)])
def test_each_platform_gets_its_kernel_where_it_fits(platform, shape, keys, dtype, masks, calls):
  program = lowered(platform, shape, keys, dtype, **masks)
  own = TARGETS.get(platform, 'custom_call @')
  assert len(re.findall(re.escape(own), program)) == calls
  for other in set(TARGETS.values()) - {own}:
    assert other not in program


def test_cudnn_gets_an_aligned_bias_where_there_is_a_mask_and_gives_no_gradient_for_it():
  plain = lowered('cuda', (2, 4, 300, 64), 201, jnp.bfloat16)
  masked = lowered('cuda', (2, 4, 300, 64), 201, jnp.bfloat16, **SEGMENTS)
  assert '@__cudnn$fmhaSoftmax(' in plain and '@__cudnn$fmhaSoftmaxBackward(' in plain
  call, = re.findall(r'@__cudnn\$fmhaScaleBiasSoftmaxBackward.*', masked)
  arguments, results = call.rsplit(' -> ', 1)
  assert 'tensor<2x1x304x208xbf16>' in arguments.rsplit(' : ', 1)[1]
  assert results.count('tensor<') == 4  # by q, k and v, and the workspace


def mesh_of(**sizes):
  return make_mesh(ConfigDict(dict(data=1, fsdp=1, context=1, tensor=1) | sizes))


@pytest.mark.parametrize('sizes, kv_heads, table, expected', [
    (dict(fsdp=2, context=2, tensor=2), 2, RULES, (('fsdp',), ('tensor',), ('context',), ())),
    (dict(fsdp=2, context=2, tensor=2), 2, RING,
     (('fsdp',), ('tensor',), ('context',), ('context',))),
    (dict(data=2, tensor=4), 2, RULES, (('data',), ('tensor',), (), ())),  # few key heads
    (dict(context=8), 4, RING, None),  # over which neither queries nor keys divide
    (dict(fsdp=8), 4, RULES, None)])  # two rows over eight devices: each computes both
def test_attention_on_a_mesh_equals_one_device(sizes, kv_heads, table, expected):
  q, k, v, visibility, gradient = inputs = make_inputs(kv_heads, True, True)
  alone = attend_and_pull(*inputs)
  with partition.scope(mesh_of(**sizes), table):
    split = dispatch.split_of(ROWS, HEADS, LENGTH, KEYS)
    together = jax.jit(attend_and_pull.__wrapped__)(*inputs)
    program = jax.jit(attend_and_pull.__wrapped__).lower(*inputs).as_text()
  assert (split[1:] if split else None) == expected
  assert ('manual_computation' in program) == bool(split)
  for ours, one in zip(together, alone, strict=True):
    np.testing.assert_allclose(ours, one, atol=2e-5)


def test_gradients_by_keys_that_do_not_divide_are_whole_on_each_device():
  q, k, v, visibility, gradient = make_inputs(4, True, False)
  k, v = k[:, :, 1:], v[:, :, 1:]
  inputs = q, k, v, visibility._replace(kv_segments=visibility.kv_segments[:, 1:]), gradient
  alone = attend_and_pull(*inputs)
  with partition.scope(mesh_of(data=4, context=2)):
    together = jax.jit(attend_and_pull.__wrapped__)(*inputs)
  for ours, one in zip(together, alone, strict=True):
    np.testing.assert_allclose(ours, one, atol=2e-5)


@pytest.mark.parametrize('table', [RULES, RING], ids=['gathered', 'ring'])
def test_splash_on_a_mesh_equals_plain_products_on_one_device(table):
  """Rows, heads and queries split; gradients by keys are sums over the queries' devices."""
  *arrays, visibility, gradient = make_inputs(2, True, True)
  expected = both_ways(xla.KERNEL, *arrays, visibility, gradient)

  with partition.scope(mesh_of(fsdp=2, context=2, tensor=2), table):
    given = dict(given=(True,) * 4, split=dispatch.split_of(ROWS, HEADS, LENGTH, KEYS))

    @jax.jit
    def run(arrays, visibility, gradient):
      out, logsumexp = dispatch.run_forward((SPLASH,), *arrays, *visibility, **given)
      return out, *dispatch.run_backward(
          (SPLASH,), *arrays, out, logsumexp, gradient, *visibility, **given)

    results = run(arrays, visibility, gradient)
  assert results[0].sharding.spec[:3] == ('fsdp', 'tensor', 'context')
  for ours, one in zip(results, expected, strict=True):
    np.testing.assert_allclose(ours, one, atol=2e-5)


def test_attention_under_vmap_and_without_jit():
  q, k, v, visibility, _ = make_inputs(2, True, False)
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  expected = attend(q, k, v, **visibility._asdict())
  one = functools.partial(attend, q_positions=None, kv_positions=None)
  mapped = jax.vmap(
      lambda q, k, v, a, b: one(q[None], k[None], v[None], q_segments=a[None], kv_segments=b[None]),
      out_axes=1)(q, k, v, *visibility[:2])
  np.testing.assert_allclose(mapped[0], expected, atol=1e-6)


@pytest.mark.parametrize('platform, calls', [('tpu', 6), ('cuda', 4)])
@pytest.mark.parametrize('table', [RULES, RING], ids=['gathered', 'ring'])
def test_a_whole_denoiser_with_gradients_lowers_for_its_target_on_a_mesh(platform, table, calls):
  """Two scanned stacks: one forward kernel each, and one (cuDNN) or two (splash) backward."""
  config = MMDiTConfig(in_channels=8, cond_dim=16, width=128, heads=2, double_blocks=2,
                       single_blocks=2, axes_dims=(16, 24, 24), remat='dots')
  model = MMDiT(config, jnp.bfloat16)
  rows, length, prompt = 4, 256, 64  # 160 tokens for each device

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((rows, *sizes), dtype)

  whole = functools.partial(shape, dtype=jnp.int32)
  visual = Visual(shape(length, 8), whole(length, 3), whole(length), whole(length),
                  shape(length, dtype=bool))
  conditioning = Conditioning(shape(prompt, 16), whole(prompt, 3), whole(prompt))
  inputs = (shape(length, 8), shape(1), visual, conditioning)

  with partition.scope(mesh_of(fsdp=2, context=2, tensor=2), table):
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    program = jax.jit(jax.grad(lambda *given: model.apply(*given).sum())).trace(
        params, *inputs).lower(lowering_platforms=(platform,)).as_text()
  count = program.count(TARGETS[platform])
  if table is RULES:
    assert count == calls and 'collective_permute' not in program
  else:  # more for the keys of other devices
    assert calls < count <= 2 * calls and 'collective_permute' in program
