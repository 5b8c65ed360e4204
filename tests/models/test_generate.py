"""Text generation: it goes on behind further pieces, stops by row, and samples from the nucleus."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.encoders.generate import append
from jaxgen.models.encoders.generate import continue_from
from jaxgen.models.encoders.generate import generate
from jaxgen.models.encoders.generate import nucleus
from tests.models.prompts import prompt_of

VOCAB = 31
TEXT = dict(vocab=VOCAB, width=16, layers=2, heads=2, kv_heads=1, mlp=16)
# One axis of positions and square images; three axes and images of any size.
SECTIONS = {
    'internvl': dict(text=TEXT, vision=dict(image_size=4, patch_size=1, width=8, layers=1,
                                            heads=2, mlp=8)),
    'qwen2_5_vl': dict(text=TEXT | dict(rope_sections=(1, 1, 2)),
                       vision=dict(width=16, layers=1, heads=2, mlp=8, patch_size=1, window=4,
                                   full_attention=())),
}


@functools.cache
def model(family):
  """``(module, random params)``."""
  module = registry.build(registry.section(family, **SECTIONS[family]), jnp.float32)
  rng = np.random.default_rng(0)
  return module, trees.map_named(
      lambda path, leaf: (('norm' in path) + 0.8 * rng.normal(size=leaf.shape)).astype(np.float32),
      registry.param_shapes(module))


def prompt(family, *parts):
  """One row of lists of tokens and images, an image being f[16, Dp]: 4 x 4 patches, 4 tokens."""
  tokens, positions, index, images, place = [], [], [], [], 0
  for part in parts:
    if isinstance(part, list):
      tokens += part
      index += [-1] * len(part)
      own = np.repeat(np.arange(len(part))[:, None], 3, axis=1)
      positions.append(place + own)
    else:
      tokens += [0] * 4
      index += [4 * len(images) + token for token in range(4)]
      images.append(part)
      grid = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)])
      own = grid if family == 'qwen2_5_vl' else np.repeat(np.arange(4)[:, None], 3, axis=1)
      positions.append(place + own)
    place += own.max() + 1
  h, w = np.mgrid[:4, :4].reshape(2, 2, 2, 2, 2).swapaxes(2, 3).reshape(2, 16)
  count = len(images)
  return prompt_of(
      np.array([tokens]), np.concatenate(positions)[None],
      np.concatenate(images)[None] if count else None, image_index=np.array([index]),
      patch_positions=np.tile(np.stack([h, w], axis=-1), (count, 1))[None],
      patch_images=np.repeat(np.arange(1, count + 1), 16)[None],
      patch_dim=model(family)[0].config.vision.patch_dim)


def image(family, seed):
  dim = model(family)[0].config.vision.patch_dim
  return np.random.default_rng(seed).normal(size=(16, dim)).astype(np.float32)


def rows_of(*rows):
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


@pytest.mark.parametrize('family', SECTIONS)
def test_writing_goes_on_behind_further_pieces(family):
  """Write, read three tokens, with three axes an image too, write: as one run on all of it."""
  module, params = model(family)
  first = [1, 2], image(family, 1), [3, 4, 5]
  forced = ([6, 7, 8],) if family == 'internvl' else ([6, 7, 8], image(family, 2), [9])
  written, state, _ = generate(module, params, prompt(family, *first), max_new=4, stop_ids=(),
                               room=12)
  behind = append(module, params, state, prompt(family, *forced))
  text, end, _ = continue_from(module, params, behind, max_new=4, stop_ids=())
  whole = prompt(family, *first, written[0].tolist(), *forced)
  expected, other_end, _ = generate(module, params, whole, max_new=4, stop_ids=())
  assert text.tolist() == expected.tolist() and end.position == other_end.position
  np.testing.assert_allclose(end.hidden, other_end.hidden, rtol=1e-4, atol=1e-4)
  other = append(module, params, state, prompt(family, [7, 6, 8], *forced[1:]))
  assert np.abs(other.hidden - behind.hidden).max() > 1e-2


def test_rows_that_stopped_early_go_on_as_if_alone():
  """One row stops early and goes on behind two tokens, the other does neither."""
  family = 'qwen2_5_vl'
  module, params = model(family)
  write = functools.partial(generate, module, params, max_new=6, room=8)
  rows = [prompt(family, [1, 2, 3], image(family, 1)), prompt(family, [4, 5, 6], image(family, 2))]
  text = write(rows_of(*rows), stop_ids=())[0].tolist()
  stop = next(token for token in text[0][1:4] if token not in text[1])
  piece = prompt(family, [6, 7])
  nothing = piece.replace(segments=0 * piece.segments)

  def run(rows, pieces):
    tokens, state, lengths = write(rows_of(*rows), stop_ids=(stop,))
    if pieces:
      state = append(module, params, state, rows_of(*pieces))
    more = continue_from(module, params, state, max_new=4, stop_ids=())[0]
    return list(zip(tokens.tolist(), lengths.tolist(), more.tolist(), strict=True))

  one, other = run([rows[0]] * 2, [piece] * 2)[0], run([rows[1]] * 2, [])[1]
  assert one[1] <= 4 and other[1] == 6
  assert run(rows, [piece, nothing]) == [one, other]


def test_a_full_cache_is_named():
  module, params = model('internvl')
  _, state, _ = generate(module, params, prompt('internvl', [1, 2]), max_new=3, stop_ids=(), room=1)
  with pytest.raises(UserError, match='room = 6: the cache needs 8 slots; .* room for 2 more'):
    append(module, params, state, prompt('internvl', [1, 2, 3]))
  with pytest.raises(UserError, match='room for 1 more'):
    continue_from(module, params, state, max_new=2, stop_ids=())


def test_a_sampled_row_depends_on_its_key_alone():
  family = 'internvl'
  module, params = model(family)
  keys = jax.random.split(jax.random.key(3), 2)
  rows = rows_of(*[prompt(family, [1, 2, 3])] * 2)
  options = dict(max_new=8, stop_ids=(), temperature=2.0, top_p=0.9)
  both = generate(module, params, rows, rng=keys, **options)[0].tolist()
  swapped = generate(module, params, rows, rng=keys[::-1], **options)[0].tolist()
  assert both == swapped[::-1] and both[0] != both[1]
  options |= dict(max_new=4)
  half, state, _ = generate(module, params, rows, rng=keys, room=4, **options)
  rest, _, _ = continue_from(module, params, state, rng=keys, **options)
  assert np.concatenate([half, rest], axis=1).tolist() == both


def kept_by_numpy(logits, top_p):
  """bool[V]: tokens by falling probability until the sum reaches top_p."""
  shares = np.exp(logits - logits.max())
  shares /= shares.sum()
  kept, total = np.zeros(len(logits), bool), 0.0
  for token in np.argsort(-logits):
    kept[token] = True
    total += shares[token]
    if total >= top_p:
      return kept
  return kept


@pytest.mark.parametrize('top_p', [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_the_nucleus_equals_a_plain_computation(top_p):
  logits = 3 * np.random.default_rng(0).normal(size=(2, 3, VOCAB)).astype(np.float32)
  ours = np.asarray(nucleus(logits, top_p))
  for index in np.ndindex(2, 3):
    kept = kept_by_numpy(logits[index].astype(np.float64), top_p)
    np.testing.assert_array_equal(ours[index], np.where(kept, logits[index], -np.inf))
  counts = np.isfinite(ours).sum(axis=-1)
  assert counts.min() >= 1 and (counts.max() == VOCAB if top_p == 1 else counts.max() < VOCAB)


def test_sampled_tokens_come_from_the_nucleus():
  """512 rows of one prompt: every kept token is drawn about as often as it should be."""
  family, top_p, temperature = 'internvl', 0.8, 3.0
  module, params = model(family)
  one = prompt(family, [1, 2])
  rows = jax.tree.map(lambda leaf: np.repeat(leaf, 512, axis=0), one)
  drawn = generate(module, params, rows, max_new=1, stop_ids=(), temperature=temperature,
                   top_p=top_p, rng=jax.random.split(jax.random.key(0), 512))[0][:, 0]
  logits = np.asarray(module.apply({'params': params}, one))[0, -1] / temperature
  kept = kept_by_numpy(logits.astype(np.float64), top_p)
  shares = np.where(kept, np.exp(logits - logits.max()), 0)
  shares /= shares.sum()
  counts = np.bincount(drawn, minlength=VOCAB)
  assert not counts[~kept].any() and 1 < kept.sum() < VOCAB
  assert np.abs(counts / 512 - shares).max() < 4 * np.sqrt(0.25 / 512)


@pytest.mark.parametrize('options, message', [
    (dict(temperature=-1.0), 'temperature = -1.0: must be 0'),
    (dict(temperature=1.0, top_p=0.0), 'top_p = 0.0: must be above 0'),
])
def test_mistakes_are_named(options, message):
  module, params = model('internvl')
  with pytest.raises(UserError, match=message):
    generate(module, params, prompt('internvl', [1]), max_new=1, stop_ids=(),
             rng=jax.random.split(jax.random.key(0), 1), **options)
