"""The layers against numpy and PyTorch: masks, gradients, RoPE, norms, modulation, time."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models import embeddings as diffusers_embeddings

from jaxgen.models.layers import embeddings
from jaxgen.models.layers import linear
from jaxgen.models.layers import mlp
from jaxgen.models.layers import modulation
from jaxgen.models.layers import norms
from jaxgen.models.layers import rope
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.kernels.cpu import CACHED_SCORES
from tests.models import parity

Q_SEGMENTS = np.array([[1, 1, 2, 0, 3], [1, 2, 2, 2, 2]], np.int32)
KV_SEGMENTS = np.array([[1, 2, 2, 1, 0, 0], [2, 2, 1, 2, 2, 2]], np.int32)
Q_POSITIONS = np.array([[0, 1, 0, 0, 0], [0, 0, 1, 2, 3]], np.int32)
KV_POSITIONS = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 0, 2, 3, 4]], np.int32)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(q, k, v, segments, causal):
  """Attention as the definition has it: a loop over rows, heads and queries."""
  out = np.zeros_like(q)
  for b, i, n in np.ndindex(q.shape[:3]):
    head = n // (q.shape[2] // k.shape[2])
    sees = np.ones(k.shape[1], bool)
    if segments:
      sees &= (KV_SEGMENTS[b] == Q_SEGMENTS[b, i]) & (Q_SEGMENTS[b, i] != 0)
    if causal:
      sees &= KV_POSITIONS[b] <= Q_POSITIONS[b, i]
    if sees.any():
      scores = k[b, sees, head] @ q[b, i, n] / math.sqrt(q.shape[-1])
      weights = np.exp(scores - scores.max())
      out[b, i, n] = (weights / weights.sum()) @ v[b, sees, head]
  return out


@pytest.mark.parametrize('segments', [True, False])
@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('kv_heads', [4, 2])
def test_attention_equals_the_definition(segments, causal, kv_heads):
  q = normal(2, 5, 4, 8)
  k, v = normal(2, 6, kv_heads, 8, seed=1), normal(2, 6, kv_heads, 8, seed=2)
  out = jax.jit(attend)(
      q, k, v, q_segments=Q_SEGMENTS if segments else None,
      kv_segments=KV_SEGMENTS if segments else None,
      q_positions=Q_POSITIONS if causal else None,
      kv_positions=KV_POSITIONS if causal else None)
  np.testing.assert_allclose(out, reference(q, k, v, segments, causal), atol=1e-5)


def test_attention_gradients_equal_automatic_ones():
  """Against plain softmax attention; rows that see nothing included."""
  q, k, v = normal(2, 5, 4, 8), normal(2, 6, 2, 8, seed=1), normal(2, 6, 2, 8, seed=2)
  target = normal(2, 5, 4, 8, seed=3)
  segments = dict(q_segments=Q_SEGMENTS, kv_segments=KV_SEGMENTS)

  def plain(q, k, v):
    k, v = (x.repeat(2, axis=2) for x in (k, v))
    mask = (Q_SEGMENTS[:, :, None] == KV_SEGMENTS[:, None, :]) & (Q_SEGMENTS[:, :, None] != 0)
    scores = jnp.einsum('BLNH,BSNH->BNLS', q, k) / math.sqrt(8)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e9), axis=-1)
    return jnp.einsum('BNLS,BSNH->BLNH', weights * mask[:, None], v)

  def gradients(function):
    return jax.jit(jax.grad(lambda *qkv: jnp.sum(function(*qkv) * target), (0, 1, 2)))(q, k, v)

  for ours, expected in zip(gradients(functools.partial(attend, **segments)), gradients(plain)):
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize('rows, heads', [(2, 2), (1, 4)])
def test_attention_over_long_rows_taken_in_turn_equals_all_at_once(rows, heads):
  """Long enough for CPU to go through rows or heads one by one, forwards and backwards."""
  length = 1024
  q, k, v, target = (normal(rows, length, heads, 4, seed=seed) for seed in range(4))
  segments = np.tile(np.repeat([1, 2, 0], [600, 400, 24]).astype(np.int32), (rows, 1))
  assert rows * heads * length**2 > CACHED_SCORES

  def run(q, k, v, segments, target):
    out, pull_back = jax.vjp(
        lambda *qkv: attend(*qkv, q_segments=segments, kv_segments=segments), q, k, v)
    return out, *pull_back(target)

  together = jax.jit(run)(q, k, v, segments, target)
  for row, head in np.ndindex(rows, heads):
    part = (slice(row, row + 1), slice(None), slice(head, head + 1))
    alone = jax.jit(run)(q[part], k[part], v[part], segments[:1], target[part])
    for ours, expected in zip(together, alone):
      np.testing.assert_allclose(ours[part], expected, atol=1e-5)


def test_attention_is_half_precision_in_and_out_with_an_fp32_softmax():
  q, k, v = (normal(1, 4, 2, 8, seed=seed) for seed in range(3))
  half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
  everywhere = jax.jit(functools.partial(attend, q_segments=None, kv_segments=None))
  out = everywhere(*half)
  exact = everywhere(*(x.astype(jnp.float32) for x in half))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(np.float32), exact, atol=2e-2)
  wide = jnp.full((1, 1, 1, 8), 300.0, jnp.bfloat16)  # scores of 254558 must not overflow
  assert jnp.isfinite(everywhere(wide, wide, wide)).all()


@pytest.mark.parametrize('inputs, features', [(1, (6,)), (1, (2, 3)), (2, (5,))])
def test_linear_and_its_gradients_equal_an_einsum(inputs, features):
  x = normal(2, 3, 4) if inputs == 1 else normal(2, 3, 2, 2)
  names = ('embed',) if inputs == 1 else ('heads', 'head_dim')
  model = linear.Linear(features, names + ('mlp',) * len(features), inputs)
  params = nn.unbox(model.init(jax.random.key(0), x))
  target = normal(2, 3, *features, seed=1)

  def plain(params, x):
    kernel = params['params']['kernel'].reshape(4, -1)
    y = jnp.einsum('BLK,KF->BLF', x.reshape(2, 3, 4), kernel)
    return y.reshape(target.shape) + params['params']['bias']

  def run(function):
    return jax.jit(jax.value_and_grad(
        lambda params, x: jnp.sum(jnp.square(function(params, x) - target)), (0, 1)))(params, x)

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
               run(model.apply), run(plain))


def test_linear_in_half_precision_gives_fp32_gradients_to_its_parameters():
  model = linear.Linear((4,), ('embed', 'mlp'), dtype=jnp.bfloat16)
  params = nn.unbox(model.init(jax.random.key(0), normal(2, 3)))
  assert model.apply(params, normal(2, 3)).dtype == jnp.bfloat16
  gradient = jax.grad(lambda p: model.apply(p, normal(2, 3)).astype(jnp.float32).sum())(params)
  assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}


def test_rope_of_flux_equals_diffusers():
  axes, x = (4, 6, 6), normal(1, 5, 2, 16)
  positions = np.random.default_rng(0).integers(-50, 50, (1, 5, 3)).astype(np.int32)

  def theirs(_, x, positions):
    parts = [diffusers_embeddings.get_1d_rotary_pos_embed(
        dim, positions[0, :, axis].float(), use_real=True) for axis, dim in enumerate(axes)]
    cos, sin = (torch.cat(part, dim=-1) for part in zip(*parts))
    return diffusers_embeddings.apply_rotary_emb(x, (cos, sin), sequence_dim=1)

  ours = rope.apply_rope(x, *rope.angles(positions, axes, 10_000.0), interleaved=True)
  parity.assert_near(ours, parity.theirs(torch.nn.Identity(), theirs, x, positions))


@pytest.mark.parametrize('interleaved', [True, False])
def test_rope_sees_distances_only(interleaved):
  q, k = normal(1, 4, 1, 8), normal(1, 4, 1, 8, seed=1)
  positions = np.array([[[0], [3], [-2], [7]]], np.int32)

  def scores(shift):
    cos, sin = rope.angles(positions + shift, (8,), 100.0)
    turn = functools.partial(rope.apply_rope, cos=cos, sin=sin, interleaved=interleaved)
    return jnp.einsum('BLNH,BSNH->BNLS', turn(q), turn(k))

  np.testing.assert_allclose(scores(0), scores(-11), atol=1e-4)
  plain = jnp.einsum('BLNH,BSNH->BNLS', q, k)
  assert float(jnp.abs(scores(0) - plain).max()) > 0.1


@pytest.mark.parametrize('ours, theirs', [
    (norms.RMSNorm(1e-6), torch.nn.RMSNorm(8, 1e-6)),
    (norms.LayerNorm(1e-5), torch.nn.LayerNorm(8, 1e-5)),
])
def test_norms_equal_torch(ours, theirs):
  x = 3 + 5 * normal(2, 3, 8)
  parity.assert_near(ours.apply(nn.unbox(ours.init(jax.random.key(0), x)), x),
                     parity.theirs(theirs, lambda model, x: model(x), x))


@pytest.mark.parametrize('ours, kind', [(mlp.gelu_tanh, 'tanh'), (mlp.gelu_exact, 'none')])
def test_gelus_equal_torch(ours, kind):
  x = 3 * normal(50)
  parity.assert_near(ours(x), parity.theirs(torch.nn.GELU(kind), lambda model, x: model(x), x))


def test_time_features_refuse_half_precision():
  with pytest.raises(AssertionError):
    embeddings.timestep_embedding(jnp.asarray([0.5], jnp.bfloat16))


def test_modulation_gives_each_token_the_vector_of_its_segment():
  vectors, segments = normal(2, 3, 4), np.array([[1, 1, 3, 0], [2, 2, 2, 3]], np.int32)
  tokens = np.asarray(modulation.per_token(vectors, segments))
  for row, token in np.ndindex(segments.shape):
    segment = segments[row, token]
    expected = vectors[row, segment - 1] if segment else np.zeros(4)
    np.testing.assert_array_equal(tokens[row, token], expected)
  assert modulation.per_token(vectors[:, :1], segments).shape == (2, 1, 4)


def test_fresh_modulation_is_silent():
  model = modulation.Modulation(3)
  chunks, _ = model.init_with_output(jax.random.key(0), normal(1, 2, 8), np.ones((1, 5), np.int32))
  assert len(chunks) == 3 and not any(chunk.any() for chunk in chunks)
