"""Text from a multimodal language model: greedy or by nucleus sampling, with a KV cache.

``generate`` reads a prompt and writes; ``read`` is its first half alone. What they return can go
on: ``append`` reads further pieces, such as an image that was drawn in between, and
``continue_from`` writes again.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.models.encoders.base import MultimodalLM
from jaxgen.models.encoders.causal_lm import KVCache


@flax.struct.dataclass
class DecodeState:
  """All that it takes to go on behind the tokens that were read and written.

  Attributes:
    cache: their keys and values.
    used: i32[], slots of the cache that are taken, the same in all rows; rows that stopped early
      have padding in theirs.
    hidden: f[B, D], final state of each row's last token.
    position: i32[B], where the next token of text stands, on every axis.
  """

  cache: KVCache
  used: jax.Array
  hidden: jax.Array
  position: jax.Array

  @property
  def slots(self) -> int:
    """Slots of the cache, taken or not."""
    return self.cache.segments.shape[1]


@functools.partial(jax.jit, static_argnames=(
    'model', 'max_new', 'stop_ids', 'temperature', 'top_p', 'room'))
def generate(model: MultimodalLM, params: Params, prompt: Prompt, *, max_new: int,
             stop_ids: tuple[int, ...], temperature: float = 0.0, top_p: float = 1.0,
             rng: jax.Array | None = None, room: int = 0
             ) -> tuple[jax.Array, DecodeState, jax.Array]:
  """Continues the prompt of each row.

  Args:
    model: the language model.
    params: its parameters.
    prompt: one segment per row, numbered 1; padding may stand anywhere.
    max_new: tokens to write at the most.
    stop_ids: tokens that end a row. The first one is written, and repeated to the end.
    temperature: 0 = the likeliest token; otherwise logits are divided by it before sampling.
    top_p: share of the probability that is sampled from; see ``nucleus``.
    rng: key[B], a key for each row; only needed to sample. A token depends on the row's key and
      the token's position, not on other rows.
    room: slots of the cache to leave free for ``append`` and ``continue_from``.

  Returns:
    ``(tokens i32[B, max_new], state, lengths i32[B])``; a length counts the stop token, and the
    state has read it.

  Raises:
    UserError: a negative temperature, or top_p outside of (0, 1].
  """
  slots = prompt.tokens.shape[1] + max_new + room
  return _write(model, params, read(model, params, prompt, slots=slots), max_new, stop_ids,
                temperature, top_p, rng)


@functools.partial(jax.jit, static_argnames=('model', 'slots'))
def read(model: MultimodalLM, params: Params, prompt: Prompt, *, slots: int) -> DecodeState:
  """Reads the prompt of each row into a cache of so many slots, of which it takes S.

  Args:
    model, params: as in ``generate``.
    prompt: one segment per row, numbered 1, or none in rows that are not in use.
    slots: of the cache, S or more.
  """
  rows, length = prompt.tokens.shape
  assert length <= slots, (length, slots)
  return _append(model, params, DecodeState(
      cache=KVCache.empty(model.config.text, rows, slots, model.dtype),
      used=jnp.zeros((), jnp.int32),
      hidden=jnp.zeros((rows, model.config.text.width), model.dtype),
      position=jnp.zeros((rows,), jnp.int32)), prompt)


def append(model: MultimodalLM, params: Params, state: DecodeState, prompt: Prompt
           ) -> DecodeState:
  """Reads a further piece of text and images in each row.

  Args:
    model, params: as in ``generate``.
    state: has room for the piece.
    prompt: one segment per row, numbered 1, or none where a row goes on without it. Its positions
      count from 0 again: a piece stands behind everything before it. So does its image_index.

  Returns:
    The state behind the piece.
  """
  _check_room(state, prompt.tokens.shape[1])
  return _append(model, params, state, prompt)


def continue_from(model: MultimodalLM, params: Params, state: DecodeState, *, max_new: int,
                  stop_ids: tuple[int, ...], temperature: float = 0.0, top_p: float = 1.0,
                  rng: jax.Array | None = None, active: jax.Array | None = None,
                  limit: int | None = None) -> tuple[jax.Array, DecodeState, jax.Array]:
  """``generate`` behind what was read and written before; the state has room for ``max_new``.

  Rows that are not ``active``, bool[B], write nothing: their length is 0. None = all are. A
  ``limit`` below ``max_new`` ends the rows that come so far; all limits have one program.
  """
  _check_room(state, max_new)
  return _write(model, params, state, max_new, stop_ids, temperature, top_p, rng, active, limit)


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
  """Keeps the likeliest tokens whose probabilities together reach ``top_p``.

  Args:
    logits: f32[..., V].
    top_p: in (0, 1]; 1 keeps all.

  Returns:
    f32[..., V], the logits that are kept and -inf elsewhere. Tokens exactly as likely as the last
    one that is needed are kept too. Source: Holtzman et al. 2020, section 3.1.
  """
  falling = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
  shares = jax.nn.softmax(falling, axis=-1)
  before = jnp.cumsum(shares, axis=-1) - shares  # of all likelier tokens
  needed = jnp.sum(before < top_p, axis=-1, keepdims=True)
  last = jnp.take_along_axis(falling, jnp.maximum(needed, 1) - 1, axis=-1)
  return jnp.where((logits >= last) | (top_p >= 1), logits, -jnp.inf)


def _check_room(state: DecodeState, count: int) -> None:
  """New tokens beyond the last slot would overwrite old ones."""
  used = int(state.used)
  if used + count > state.slots:
    raise user_error('room', state.slots, f'the cache needs {used + count} slots; give generate '
                     f'room for {used + count - state.slots} more')


def _extend(model: MultimodalLM, params: Params, state: DecodeState, embeddings: jax.Array,
            positions: jax.Array, segments: jax.Array) -> DecodeState:
  """Reads f[B, S, D] at positions i32[B, S, 3] behind the state's; segment 0 is not read."""
  places = positions + state.position[:, None, None]  # [B, S, 3]
  hidden, cache = model.apply({'params': params}, embeddings, places, segments, state.cache,
                              state.used, method='extend')
  valid = segments == 1  # [B, S]
  order = jnp.arange(segments.shape[1], dtype=jnp.int32)
  end = jnp.argmax(jnp.where(valid, order, -1), axis=1)
  last = jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0]  # [B, D]
  # Behind an image, text goes on after the largest of its positions on any axis.
  taken = jnp.max(jnp.where(valid, 1 + jnp.max(positions, axis=-1), 0), axis=1)  # [B]
  return DecodeState(
      cache=cache, used=state.used + segments.shape[1],
      hidden=jnp.where(jnp.any(valid, axis=1)[:, None], last, state.hidden),
      position=state.position + taken)


@functools.partial(jax.jit, static_argnames='model')
def _append(model, params, state, prompt):
  embeddings = model.apply({'params': params}, prompt, method='embed_prompt')  # [B, S, D]
  return _extend(model, params, state, embeddings, prompt.positions, prompt.segments)


def _write(model, params, state, max_new, stop_ids, temperature, top_p, rng, active=None,
           limit=None):
  """See ``generate`` and ``continue_from``."""
  if temperature < 0:
    raise user_error('temperature', temperature, 'must be 0 (greedy) or positive')
  if not 0 < top_p <= 1:
    raise user_error('top_p', top_p, 'must be above 0 and at most 1')
  assert temperature == 0 or rng is not None, 'sampling needs a key for each row'
  # Numbers above 0 and below 1 are data: one program for all of them.
  chosen = dict(temperature=float(temperature)) if temperature else {}
  chosen |= dict(top_p=float(top_p)) if temperature and top_p < 1 else {}
  return _written(model, params, state, max_new, stop_ids, chosen, rng, active, limit)


@functools.partial(jax.jit, static_argnames=('model', 'max_new', 'stop_ids'))
def _written(model, params, state, max_new, stop_ids, chosen, rng, active, limit):
  """``_write`` with ``chosen``: temperature and top_p, where they are not 0 and 1."""
  rows = state.position.shape[0]
  positions = jnp.zeros((rows, 1, 3), jnp.int32)

  def pick(state):
    """i32[B]: the next token of each row."""
    hidden = state.hidden[:, None]  # [B, 1, D]
    logits = model.apply({'params': params}, hidden, method='logits')[:, 0]  # [B, V]
    if 'temperature' not in chosen:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in)(rng, state.position)
    kept = logits / chosen['temperature']
    kept = nucleus(kept, chosen['top_p']) if 'top_p' in chosen else kept
    return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)

  def unfinished(carry):
    step, _, _, running, _ = carry
    return (step < (max_new if limit is None else limit)) & jnp.any(running)

  def write(carry):
    step, text, lengths, running, state = carry
    token = pick(state)[:, None]  # [B, 1]
    text = jax.lax.dynamic_update_slice(text, token, (0, step))
    embeddings = model.apply({'params': params}, token, method='embed_text')  # [B, 1, D]
    live = running.astype(jnp.int32)
    state = _extend(model, params, state, embeddings, positions, live[:, None])
    running &= ~jnp.isin(token[:, 0], jnp.array(stop_ids, jnp.int32))
    return step + 1, text, lengths + live, running, state

  _, text, lengths, _, state = jax.lax.while_loop(unfinished, write, (
      0, jnp.zeros((rows, max_new), jnp.int32), jnp.zeros((rows,), jnp.int32),
      jnp.ones((rows,), bool) if active is None else active, state))
  last = jnp.take_along_axis(text, jnp.maximum(lengths - 1, 0)[:, None], axis=1)  # [B, 1]
  return jnp.where(jnp.arange(max_new) < lengths[:, None], text, last), state, lengths
