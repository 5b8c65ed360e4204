"""Masked next-token prediction over packed prompts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.objectives.base import Metrics
from jaxgen.objectives.base import Objective

# Tokens per row whose logits are in memory at once: 128 with a vocabulary of 152k take 78 MB in
# fp32.
CHUNK = 128


@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
  """Cross entropy of the tokens whose ``loss_mask`` is set, each predicted from those before it.

  With weights of 1 it equals the loss of a Hugging Face causal model with labels -100 elsewhere
  (F24). The first token of a segment is never predicted from the previous segment. Logits are
  computed for ``CHUNK`` tokens of every row at a time, and recomputed in the backward pass.
  """

  calls = ('hidden', 'head')

  def __call__(self, system: Any, params: Params, batch: Batch, rng: jax.Array
               ) -> tuple[jax.Array, Metrics]:
    del rng
    hidden = system.hidden(params, batch)  # [B, S, D]
    labels, weight = _labels(batch.prompt)  # [B, S]

    @jax.checkpoint
    def sums(hidden, labels, weight):
      logits = system.head(params, hidden).astype(jnp.float32)  # [B, CHUNK, V]
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
      return jnp.sum(losses * weight), jnp.sum(correct * weight)

    if hidden.shape[1] <= CHUNK:
      loss, correct = sums(hidden, labels, weight)
    else:
      parts = jax.tree.map(_chunks, (hidden, labels, weight))
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


def _chunks(x: jax.Array) -> jax.Array:
  """[B, S, ...] -> [n, B, CHUNK, ...], padded with zeros, which have weight 0."""
  count = -(-x.shape[1] // CHUNK)
  pad = [(0, 0)] * x.ndim
  pad[1] = (0, count * CHUNK - x.shape[1])
  x = jnp.pad(x, pad)
  return jnp.moveaxis(x.reshape(x.shape[0], count, CHUNK, *x.shape[2:]), 1, 0)
