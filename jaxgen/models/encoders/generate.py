"""Greedy text from a multimodal language model, with a KV cache."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.models.encoders.causal_lm import KVCache


@functools.partial(jax.jit, static_argnames=('model', 'max_new', 'eos_id'))
def generate(model: nn.Module, params: Params, prompt: Prompt, *, max_new: int, eos_id: int
             ) -> jax.Array:
  """Continues each row greedily.

  Args:
    model: has ``embed_prompt``, ``embed_text``, ``extend`` and ``logits``, and its language
      model's sizes in ``config.text``.
    params: its parameters.
    prompt: one segment per row, numbered 1; padding may stand anywhere.
    max_new: tokens to write at the most.
    eos_id: the token that ends a row; it is written, and repeated to the end. -1 = none.

  Returns:
    i32[B, max_new].
  """
  def run(method, *args):
    return model.apply({'params': params}, *args, method=method)

  rows, length = prompt.tokens.shape
  config = model.config.text
  positions = prompt.positions if config.rope_sections else prompt.positions[..., 0]
  order = jnp.arange(length) if config.rope_sections else positions
  cache = KVCache.empty(config, rows, length + max_new, model.dtype)
  hidden, cache = run('extend', run('embed_prompt', prompt), positions, prompt.segments, cache, 0)
  valid = prompt.segments == 1
  end = jnp.argmax(jnp.where(valid, order, -1), axis=1)
  hidden = jnp.take_along_axis(hidden, end[:, None, None], axis=1)
  # Behind an image, text goes on after the largest of its positions on any axis.
  behind = 1 + jnp.max(jnp.where(valid, jnp.max(prompt.positions, axis=-1), -1), axis=1)
  behind = behind.reshape(rows, *(1,) * (positions.ndim - 1))
  ones = jnp.ones((rows, 1), jnp.int32)

  def pick(hidden):
    return jnp.argmax(run('logits', hidden), axis=-1).astype(jnp.int32)

  def unfinished(state):
    step, token, *_ = state
    return (step < max_new) & jnp.any(token != eos_id)

  def write(state):
    step, token, text, cache = state
    place = jnp.broadcast_to(behind + step - 1, (rows, 1, *positions.shape[2:]))
    hidden, cache = run('extend', run('embed_text', token), place, ones, cache, length + step - 1)
    token = jnp.where(token == eos_id, eos_id, pick(hidden))
    return step + 1, token, jax.lax.dynamic_update_slice(text, token, (0, step)), cache

  first = pick(hidden)
  text = jnp.full((rows, max_new), eos_id, jnp.int32).at[:, :1].set(first)
  return jax.lax.while_loop(unfinished, write, (1, first, text, cache))[2]
