"""Cross entropy by chunks: the same loss and gradients as in one piece, in far less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.types import Batch
from jaxgen.core.types import Meta
from jaxgen.core.types import Prompt
from jaxgen.objectives import next_token
from jaxgen.objectives.next_token import LOGITS
from jaxgen.objectives.next_token import NextToken
from jaxgen.objectives.next_token import TILE
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.partition import scope


class Words:
  """A system whose hidden states are embeddings; the head is a plain matrix."""

  def hidden(self, params, batch):
    return jnp.take(params['embedding'], batch.prompt.tokens, axis=0)

  def head(self, params, hidden):
    return hidden @ params['head']


def _batch(rows, length, vocab, rng=np.random.default_rng(0)):
  """Two segments and padding in every row; most tokens are to be predicted."""
  zeros = np.zeros((rows, length), np.int32)
  segments = np.where(np.arange(length) < length // 2, 1, 2) * (np.arange(length) < length - 3)
  prompt = Prompt(
      tokens=rng.integers(0, vocab, (rows, length)).astype(np.int32), positions=zeros[..., None],
      segments=np.tile(segments, (rows, 1)).astype(np.int32),
      loss_mask=rng.choice([0.0, 1.0, 2.0], (rows, length)).astype(np.float32),
      image_index=zeros - 1, query_index=zeros - 1, shown=zeros > 0,
      state_positions=zeros[..., None], patches=zeros[:, :0, None], patch_positions=zeros[:, :0],
      patch_images=zeros[:, :0], maskable=zeros[:, :0] > 0)
  return Batch(visual=None, prompt=prompt, meta=Meta(zeros, zeros, zeros[:, 0]))


def _plain(params, batch):
  prompt = batch.prompt
  logits = Words().head(params, Words().hidden(params, batch))[:, :-1]
  same = (prompt.segments[:, 1:] == prompt.segments[:, :-1]) & (prompt.segments[:, 1:] > 0)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, prompt.tokens[:, 1:])
  return jnp.sum(losses * prompt.loss_mask[:, 1:] * same)


def _params(vocab, width=8):
  return dict(embedding=jax.random.normal(jax.random.key(0), (vocab, width)),
              head=jax.random.normal(jax.random.key(1), (width, vocab)))


@pytest.mark.parametrize('length', [TILE - 1, 2 * TILE, 2 * TILE + 5])
def test_chunks_add_up_to_the_whole(length, monkeypatch):
  monkeypatch.setattr(next_token, 'LOGITS', 4 * 2 * TILE * 31)  # a tile of both rows
  params, batch = _params(31), _batch(2, length, 31)
  loss = lambda params: NextToken()(Words(), params, batch, None)[0]
  (whole, expected), (chunked, gradients) = (
      jax.jit(jax.value_and_grad(each))(params)
      for each in (lambda params: _plain(params, batch), loss))
  np.testing.assert_allclose(chunked, whole, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradients,
               expected)
  correct, count = NextToken()(Words(), params, batch, None)[1]['token_accuracy']
  assert float(count) == float(NextToken().weight(batch)) > 0 <= float(correct) <= float(count)


def test_the_logits_of_a_long_row_are_never_held_at_once():
  """4,096 tokens x 152,064 words are 2.5 GB in fp32, and as much again for their gradient."""
  vocab, batch = 152_064, _batch(1, 4096, 100)
  params = jax.eval_shape(lambda: _params(vocab, width=64))

  def peak(loss):
    return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

  chunked = peak(lambda params: NextToken()(Words(), params, batch, None)[0])
  assert chunked < 3 * LOGITS < 2.4e9 < peak(lambda params: _plain(params, batch))


def test_rows_of_other_devices_do_not_make_chunks_smaller(tiny_config, monkeypatch):
  monkeypatch.setattr(next_token, 'LOGITS', 4 * TILE * 31)  # a tile of one row
  params, batch = _params(31), _batch(8, 4 * TILE, 31)

  def tokens() -> set[int]:
    program = jax.make_jaxpr(lambda: NextToken()(Words(), params, batch, None)[0])()
    return {equation.params['length'] for equation in program.eqns
            if equation.primitive.name == 'scan'}

  tiny_config.mesh.update(data=8, fsdp=1)
  with scope(make_mesh(tiny_config.mesh)):
    shared = tokens()
  monkeypatch.setattr(next_token, 'LOGITS', 4 * 2 * TILE * 31)  # two tiles of one row
  with scope(make_mesh(tiny_config.mesh)):
    assert (shared, tokens()) == ({4}, {2})
  assert tokens() == {4}  # all eight rows on one device
