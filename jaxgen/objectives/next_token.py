"""Masked next-token prediction over packed prompts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.objectives.base import Metrics
from jaxgen.objectives.base import Objective
from jaxgen.sharding.partition import part

# Bytes of fp32 logits that a device holds at once: 768 tokens of a vocabulary of 152k. A sharded
# head is gathered, and its gradient scattered, for every chunk, so small ones wait for the links.
LOGITS = 2**29
TILE = 128  # a chunk has a multiple of so many tokens


@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
  """Cross entropy of the tokens whose ``loss_mask`` is set, each predicted from those before it.

  With weights of 1 it equals the loss of a Hugging Face causal model with labels -100 elsewhere
  (F24). The first token of a segment is never predicted from the previous segment. Logits are
  computed for so many tokens of every row at a time that a device holds ``LOGITS`` bytes of them,
  and recomputed in the backward pass.
  """

  calls = ('hidden', 'head')

  def __call__(self, system: Any, params: Params, batch: Batch, rng: jax.Array
               ) -> tuple[jax.Array, Metrics]:
    del rng
    hidden = system.hidden(params, batch)  # [B, S, D]
    labels, weight = _labels(batch.prompt)  # [B, S]

    @jax.checkpoint
    def sums(hidden, labels, weight):
      logits = system.head(params, hidden).astype(jnp.float32)  # [B, chunk, V]
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
      return jnp.sum(losses * weight), jnp.sum(correct * weight)

    chunk = _chunk(jax.eval_shape(system.head, params, hidden))
    if hidden.shape[1] <= chunk:
      loss, correct = sums(hidden, labels, weight)
    else:
      parts = jax.tree.map(functools.partial(_chunks, size=chunk), (hidden, labels, weight))
      each = jax.lax.map(lambda part: sums(*part), parts)
      loss, correct = jax.tree.map(jnp.sum, each)
    return loss, {'token_accuracy': (correct, weight.sum())}

  def weight(self, batch: Batch) -> jax.Array:
    return _labels(batch.prompt)[1].sum()


def _labels(prompt: Prompt) -> tuple[jax.Array, jax.Array]:
  """Labels i32[B, S], the next token at each position, and their weights f32[B, S]."""
  following = jax.tree.map(lambda x: jnp.roll(x, -1, axis=1),
                           (prompt.tokens, prompt.segments, prompt.loss_mask))
  tokens, segments, loss_mask = following
  last = jnp.arange(prompt.tokens.shape[1]) == prompt.tokens.shape[1] - 1
  same = (segments == prompt.segments) & (segments > 0) & ~last
  return tokens, loss_mask * same


def _chunk(logits: jax.ShapeDtypeStruct) -> int:
  """Tokens of a row at a time, for logits [B, S, V]."""
  rows = part('rows', logits.shape[0])
  return max(LOGITS // (4 * rows * logits.shape[-1] * TILE), 1) * TILE


def _chunks(x: jax.Array, size: int) -> jax.Array:
  """[B, S, ...] -> [n, B, size, ...], padded with zeros, which have weight 0."""
  count = -(-x.shape[1] // size)
  pad = [(0, 0)] * x.ndim
  pad[1] = (0, count * size - x.shape[1])
  x = jnp.pad(x, pad)
  return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)
