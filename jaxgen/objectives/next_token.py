"""Masked next-token prediction over packed prompts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.objectives.flow_matching import Terms


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Cross entropy of the tokens whose ``loss_mask`` is set, each predicted from those before it.

  Equals the loss of a Hugging Face causal model with labels -100 elsewhere (F24); the first
  token of a segment is never predicted from the segment before it.
  """

  groups = ('mllm',)

  def __call__(self, system: Any, params: Params, batch: Batch, rng: jax.Array) -> Terms:
    """Returns ``(loss_sum, weight_sum, metrics)``; ``rng`` is not used."""
    prompt = batch.prompt
    logits = system.next_token_logits(params, prompt)[:, :-1]
    labels = prompt.tokens[:, 1:]
    same = prompt.segments[:, 1:] == prompt.segments[:, :-1]
    weight = prompt.loss_mask[:, 1:] * same * (prompt.segments[:, 1:] > 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    total = weight.sum()
    return jnp.sum(losses * weight), total, {'token_accuracy': (jnp.sum(correct * weight), total)}
