"""AdamW against torch, Muon against numpy, sharded against whole, and golden schedules."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxgen.config import base_config
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.training.muon import hidden_matrices
from jaxgen.training.optimizer import _adam
from jaxgen.training.optimizer import make_optimizer
from jaxgen.training.optimizer import make_schedule

AXES = {
    'stack': {'kernel': ('layers', 'embed', 'heads', 'head_dim'),
              'bias': ('layers', 'heads', 'head_dim')},
    'out': {'kernel': ('heads', 'head_dim', 'embed')},
    'embedding': ('vocab', 'embed'),
    'norm': ('norm',),
    'final': ('embed', 'latent'),
}
SHAPES = {'stack': {'kernel': (3, 16, 2, 4), 'bias': (3, 2, 4)}, 'out': {'kernel': (2, 4, 16)},
          'embedding': (24, 16), 'norm': (16,), 'final': (16, 8)}


def config_of(**fields):
  config = base_config()
  config.train.steps = 100
  config.model.compute_dtype = 'float32'
  config.optimizer.update(fields)
  return config


def random_tree(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
                      SHAPES, is_leaf=lambda leaf: isinstance(leaf, tuple))


def run(config, steps, params=None, scale=1.0):
  """Applies ``steps`` updates with seeded gradients."""
  optimizer = make_optimizer(config, AXES)
  params = random_tree(0) if params is None else params
  state = jax.jit(optimizer.init)(params)

  @jax.jit
  def update(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for step in range(steps):
    grads = jax.tree.map(lambda p, g: jax.device_put(g, p.sharding), params,
                         random_tree(step + 1, scale))
    params, state = update(params, state, grads)
  return params, state


def test_ten_adamw_steps_equal_torch():
  config = config_of(learning_rate=1e-2, weight_decay=0.1, clip_norm=1e9)
  ours, _ = run(config, 10)
  theirs = [torch.nn.Parameter(torch.tensor(np.asarray(leaf)))
            for leaf in jax.tree.leaves(random_tree(0))]
  adamw = torch.optim.AdamW(theirs, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
  for step in range(10):
    for leaf, grad in zip(theirs, jax.tree.leaves(random_tree(step + 1)), strict=True):
      leaf.grad = torch.tensor(np.asarray(grad))
    adamw.step()
  for ours_leaf, leaf in zip(jax.tree.leaves(ours), theirs, strict=True):
    np.testing.assert_allclose(ours_leaf, leaf.detach().numpy(), atol=2e-6)


def newton_schulz(matrix):
  """Five quintic iterations, written from Jordan's description of Muon."""
  flip = matrix.shape[0] > matrix.shape[1]
  x = matrix.T if flip else matrix
  x = x / (np.linalg.norm(x) + 1e-8)
  for _ in range(5):
    a = x @ x.T
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
  return x.T if flip else x


def test_muon_step_equals_newton_schulz_layer_by_layer():
  config = config_of(name='muon', learning_rate=1e-2, clip_norm=1e9)
  before, grads = random_tree(0), random_tree(1)
  after, _ = run(config, 1)
  # At the first step the bias-corrected Nesterov momentum is a multiple of the gradient, and
  # Newton-Schulz normalises it away.
  for layer in range(3):
    step = newton_schulz(np.asarray(grads['stack']['kernel'][layer], np.float64).reshape(16, 8))
    step = step.reshape(16, 2, 4) * 0.2 * np.sqrt(16)
    moved = np.asarray(after['stack']['kernel'][layer] - before['stack']['kernel'][layer])
    np.testing.assert_allclose(moved, -1e-2 * step, atol=2e-6)
  step = newton_schulz(np.asarray(grads['out']['kernel'], np.float64).reshape(8, 16))
  moved = np.asarray(after['out']['kernel'] - before['out']['kernel']).reshape(8, 16)
  np.testing.assert_allclose(moved, -1e-2 * step * 0.2 * np.sqrt(16), atol=2e-6)


def test_muon_leaves_embeddings_norms_biases_and_heads_to_adamw():
  muon, _ = run(config_of(name='muon', learning_rate=1e-2), 2)
  adamw, _ = run(config_of(learning_rate=1e-2), 2)
  for path in (('embedding',), ('norm',), ('final',), ('stack', 'bias')):
    ours, plain = muon, adamw
    for name in path:
      ours, plain = ours[name], plain[name]
    np.testing.assert_array_equal(ours, plain)
  assert not np.allclose(muon['out']['kernel'], adamw['out']['kernel'])


@pytest.mark.parametrize('names, sides', [
    (('layers', 'embed', 'mlp'), ((1,), (2,))),
    (('embed', 'kv_heads', 'head_dim'), ((0,), (1, 2))),
    (('layers', 'heads', 'head_dim', 'embed'), ((1, 2), (3,))),
    (('layers', 'embed'), None),
    (('heads', 'head_dim'), None),
    (('embed', 'vocab'), None),
])
def test_which_dims_make_the_matrix(names, sides):
  hidden = hidden_matrices(names)
  assert ((hidden.inputs, hidden.outputs) if hidden else None) == sides


@pytest.mark.parametrize('sizes', [dict(fsdp=4, tensor=2), dict(data=2, fsdp=4), dict(data=8)])
def test_muon_sharded_over_eight_devices_equals_whole(sizes):
  """Every matrix goes whole to one device and comes back, copied along ``data``."""
  config = config_of(name='muon', learning_rate=1e-2)
  section = base_config().mesh
  section.update(sizes)
  mesh = make_mesh(section)
  where = partition.parameter_shardings(AXES, random_tree(0), mesh)
  with partition.scope(mesh):
    sharded, _ = run(config, 3, jax.tree.map(jax.device_put, random_tree(0), where))
  whole, _ = run(config, 3)
  assert all(jax.tree.leaves(jax.tree.map(
      lambda leaf, lies: leaf.sharding.is_equivalent_to(lies, leaf.ndim), sharded, where)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), sharded, whole)


def test_muon_sends_matrices_to_one_device_and_back():
  """The two kernels here have the same shares and travel together; products stay at home."""
  config = config_of(name='muon', learning_rate=1e-2)
  section = base_config().mesh
  section.data, section.fsdp = 2, 4
  mesh, optimizer = make_mesh(section), make_optimizer(config, AXES)
  where = partition.parameter_shardings(AXES, random_tree(0), mesh)
  grads = jax.tree.map(jax.device_put, random_tree(1), where)
  with partition.scope(mesh):
    state = jax.jit(optimizer.init)(grads)
    program = jax.jit(optimizer.update).lower(grads, state, grads).compile().as_text()
  kinds = re.findall(r' (all-to-all|all-gather|reduce-scatter|collective-permute)\(', program)
  assert collections.Counter(kinds) == {'all-to-all': 2, 'all-gather': 1}
  reduced = re.findall(r' = (\S+) all-reduce\(', program)
  assert all(shape.startswith('f32[]') for shape in reduced), reduced  # the norm that clips


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_muon_step_is_nearly_orthogonal_and_as_large_as_one_of_adamw(dtype):
  """Five iterations bring singular values to between 0.7 and 1.2, not to 1."""
  config = config_of(name='muon', learning_rate=1.0)
  config.model.compute_dtype = dtype
  before, (after, _) = random_tree(0), run(config, 1)
  step = (after['out']['kernel'] - before['out']['kernel']).reshape(8, 16)
  values = np.linalg.svd(step / (0.2 * np.sqrt(16)), compute_uv=False)
  assert 0.6 < values.min() and values.max() < 1.3
  assert np.sqrt(np.mean(np.square(step))) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_moments_in_bfloat16_take_half_and_follow_the_same_curve(name):
  target = random_tree(7)

  def losses(moments_dtype):
    config = config_of(name=name, learning_rate=3e-2, moments_dtype=moments_dtype)
    optimizer, params = make_optimizer(config, AXES), random_tree(0)

    def distance(params):
      return sum(jnp.sum(jnp.square(a - b)) for a, b in zip(*map(jax.tree.leaves,
                                                                 (params, target))))

    @jax.jit
    def step(carry, seed):
      params, state = carry
      loss, grads = jax.value_and_grad(distance)(params)
      noise = jax.random.normal(jax.random.key(seed), (1000,))
      grads = jax.tree.map(lambda g: g + noise[:g.size].reshape(g.shape), grads)
      updates, state = optimizer.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), loss

    carry = params, optimizer.init(params)
    carry, curve = jax.lax.scan(step, carry, jnp.arange(60))
    moments = [leaf for leaf in jax.tree.leaves(carry[1]) if leaf.size > 3]
    assert {str(leaf.dtype) for leaf in moments} == {moments_dtype}
    return curve, sum(leaf.nbytes for leaf in moments)

  (whole, bytes_whole), (half, bytes_half) = losses('float32'), losses('bfloat16')
  assert bytes_half == bytes_whole / 2
  np.testing.assert_allclose(half, whole, rtol=0.02)
  assert whole[-1] < 0.5 * whole[0] and np.any(half != whole)


def test_a_second_moment_in_bfloat16_stands_still_where_it_decays_too_slowly():
  """Why ``validate`` refuses it: large gradients for a while, then none."""
  def left(b2, moments_dtype, idle):
    optimizer = _adam(config_of(b2=b2, moments_dtype=moments_dtype).optimizer)
    state = optimizer.init(jnp.ones(()))
    for gradient in [1.0] * 5 + [0.0] * idle:
      state = optimizer.update(jnp.asarray(gradient), state)[1]
    return float(state.nu)

  assert left(0.95, 'bfloat16', 40) == pytest.approx(left(0.95, 'float32', 40), rel=0.1)
  assert left(0.98, 'bfloat16', 40) == pytest.approx(left(0.98, 'float32', 40), rel=0.1)
  assert left(0.999, 'bfloat16', 40) == left(0.999, 'bfloat16', 0)


def test_clip_by_global_norm():
  config = config_of(learning_rate=1e-2, clip_norm=1.0)
  huge, _ = run(config, 1, scale=1e3)
  norm = float(optax.global_norm(random_tree(1)))
  small, _ = run(config_of(learning_rate=1e-2, clip_norm=1e9), 1, scale=1 / norm)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), huge, small)


@pytest.mark.parametrize('fields, golden', [
    (dict(learning_rate=1.0, warmup_steps=10), [0.1, 0.5, 1.0, 1.0, 1.0, 1.0]),
    (dict(learning_rate=2.0, warmup_steps=0, schedule='cosine'),
     [2.0, 1.9921147, 1.9602937, 1.0, 0.0489435, 0.0004935]),
    (dict(learning_rate=1.0, warmup_steps=10, schedule='cosine'),
     [0.1, 0.5, 1.0, 0.5868241, 0.0301537, 0.0003046]),
])
def test_schedules(fields, golden):
  schedule = make_schedule(config_of(**fields))
  values = [float(schedule(count)) for count in (0, 4, 9, 50, 90, 99)]
  np.testing.assert_allclose(values, golden, atol=1e-5)


@pytest.mark.parametrize('warmup', [0, 1, 2, 10, 100, 150])
@pytest.mark.parametrize('kind', ['constant', 'cosine'])
def test_schedules_equal_their_formula_at_every_step(warmup, kind):
  """In float64, beyond the last step too; a warm-up may be longer than the run."""
  counts = np.arange(130)
  expected = np.minimum(1, (counts + 1) / max(warmup, 1))
  if kind == 'cosine':
    progress = np.clip((counts - warmup) / max(100 - warmup, 1), 0, 1)
    expected *= 0.5 * (1 + np.cos(np.pi * progress))
  schedule = make_schedule(config_of(learning_rate=3e-4, warmup_steps=warmup, schedule=kind))
  found = np.broadcast_to(schedule(jnp.asarray(counts)), counts.shape)
  np.testing.assert_allclose(found, 3e-4 * expected, rtol=0, atol=3e-4 * 3e-7)
