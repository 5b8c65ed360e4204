"""The loader: exact resume on any number of processes, every sample once an epoch, every task."""

import itertools

import jax
import numpy as np
import pytest

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.data.sample import hash_id
from jaxgen.data.shapes import ShapesSource


@pytest.fixture
def mixed(make_config, folder):
  """Two sources on a ramp, two samples to a row, a tenth of the captions dropped."""
  return make_config({
      'photos': source('folder', 'image', path=str(folder), share=(0.8, 0.2)),
      'drawn': source('shapes', 'pair', share=(0.2, 0.8)),
  }, rows=4, segments_per_row=2, visual_tokens=32, caption_dropout=0.1)


def take(loader, count):
  return list(itertools.islice(loader, count))


def run(config, layout, count, **kwargs):
  loader = make_loader(config, layout, **kwargs)
  found = take(loader, count)
  loader.close()
  return found


def assert_same(one, other):
  assert one.ids == other.ids
  jax.tree.map(np.testing.assert_array_equal, one.batch, other.batch)
  jax.tree.map(np.testing.assert_array_equal, one.images, other.images)


def test_resume_on_one_and_on_two_processes(mixed, layout):
  straight = run(mixed, layout, 20)
  first = make_loader(mixed, layout)
  take(first, 7)
  state = first.state()
  first.close()
  assert state.shape == (4, 3) and state.dtype == np.int64

  one = make_loader(mixed, layout)
  one.restore(state, 7)
  for expected in straight[7:]:
    assert_same(next(one), expected)
  one.close()

  halves = [make_loader(mixed, layout, rows=rows) for rows in ((0, 2), (2, 4))]
  halves[0].restore(state[:2], 7)
  halves[1].restore(state[2:], 7)
  for expected in straight[7:]:
    assert tuple(ids for half in halves for ids in next(half).ids) == expected.ids
  rejoined = np.concatenate([half.state() for half in halves])
  for half in halves:
    half.close()
  whole = make_loader(mixed, layout)
  take(whole, 20)
  np.testing.assert_array_equal(rejoined, whole.state())
  whole.close()


def test_state_is_that_of_the_batch_handed_out(mixed, layout):
  loader = make_loader(mixed, layout)
  states = [loader.state()]
  straight = []
  for _ in range(5):
    straight.append(next(loader))
    states.append(loader.state())
  for step in (4, 0, 2):  # backwards too, in the middle of prefetching
    loader.restore(states[step], step)
    np.testing.assert_array_equal(loader.state(), states[step])
    assert_same(next(loader), straight[step])
  loader.close()
  np.testing.assert_array_equal(loader.state(), states[3])


def test_threads_prefetch_and_order_of_sources_change_nothing(mixed, layout):
  straight = run(mixed, layout, 4)
  mixed.data.update(threads=1, prefetch=1)
  sources = dict(mixed.data.sources.items())
  for name in list(sources):
    del mixed.data.sources[name]
  for name in reversed(list(sources)):
    mixed.data.sources[name] = sources[name]
  for one, other in zip(run(mixed, layout, 4), straight):
    assert_same(one, other)


def test_every_sample_once_an_epoch_in_another_order(make_config, folder, layout):
  config = make_config({'a': source('folder', 'image', path=str(folder))}, rows=4)
  loader = make_loader(config, layout)
  epochs = [[name for batch in take(loader, 5) for (name,) in batch.ids] for _ in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == [f'{index:02d}.png' for index in range(20)]
  assert epochs[0] != epochs[1] != epochs[2]
  assert loader.report()['epochs'] == {'a': 3.0}
  loader.close()


def test_rows_that_do_not_divide_the_set_still_see_all_of_it(make_config, folder, layout):
  config = make_config({'a': source('folder', 'image', path=str(folder), limit=13)}, rows=3)
  names = [name for batch in run(config, layout, 13) for (name,) in batch.ids]
  assert sorted(names) == sorted([f'{index:02d}.png' for index in range(13)] * 3)


def test_image_task(make_config, layout, tokenizer):
  config = make_config({'a': source('shapes', 'image')}, rows=2)
  loaded = run(config, layout, 1)[0]
  prompt, visual = loaded.batch.prompt, loaded.batch.visual
  assert prompt.patches.shape == (2, 4, 48) and prompt.patch_is_target.all()
  assert (prompt.image_index >= 0).sum() == 2 * layout.vision_tokens
  np.testing.assert_array_equal(prompt.image_index >= 0, prompt.tokens == tokenizer.image)
  assert visual.latents.shape == (2, 16, 48) and visual.is_target.all()
  images, slots = loaded.images[16, 16]
  assert images.shape == (2, 16, 16, 3) and slots.tolist() == [0, 16]
  scenes = ShapesSource('train', 16, config.seed)
  for image, (name,) in zip(images, loaded.ids):
    np.testing.assert_array_equal(image, scenes[int(name.rpartition('/')[2])]['image'])
  assert loaded.batch.meta.sample_ids[:, 0].tolist() == [hash_id(name) for (name,) in loaded.ids]
  assert loaded.padding_share == 0


def test_pair_task_needs_no_patches(make_config, layout, tokenizer):
  config = make_config({'a': source('shapes', 'pair')}, rows=2)
  loaded = run(config, layout, 1)[0]
  assert loaded.batch.prompt.patches.shape == (2, 0, 48)
  scenes = ShapesSource('train', 16, config.seed)
  for tokens, segments, (name,) in zip(loaded.batch.prompt.tokens, loaded.batch.prompt.segments,
                                       loaded.ids):
    caption = scenes[int(name.rpartition('/')[2])]['caption']
    assert tokenizer.decode(tokens[segments == 1]) == f'Generate an image: {caption}'


def test_caption_task_has_no_target(make_config, layout, tokenizer):
  config = make_config({'a': source('shapes', 'caption')}, rows=2, visual_tokens=0,
                       caption_dropout=1.0)
  loaded = run(config, layout, 1)[0]
  prompt = loaded.batch.prompt
  assert loaded.images == {} and loaded.batch.visual.latents.shape == (2, 0, 48)
  assert not prompt.patch_is_target.any() and (prompt.patch_segments == 1).all()
  answer = prompt.tokens[0][prompt.loss_mask[0] == 1]
  assert answer[-1] == tokenizer.end and tokenizer.decode(answer).startswith(' a photo of')


def test_caption_dropout(make_config, layout, tokenizer):
  steps, rows, rate = 25, 40, 0.3
  config = make_config({'a': source('shapes', 'image')}, rows=rows, caption_dropout=rate)
  empty = tokenizer.encode(config.data.empty_prompt)
  dropped, epochs = 0, []
  for loaded in run(config, layout, steps):
    prompt = loaded.batch.prompt
    hidden = ~(prompt.patch_segments > 0).any(1)
    dropped += hidden.sum()
    epochs.append(hidden)
    for row in np.flatnonzero(hidden):
      assert prompt.tokens[row, :len(empty)].tolist() == empty
      assert prompt.segments[row].sum() == len(empty)
      assert (prompt.image_index[row] == -1).all() and not prompt.patches[row].any()
    assert (prompt.image_index[~hidden] >= 0).any(1).all()
  count = steps * rows
  assert abs(dropped - rate * count) < 3 * np.sqrt(rate * (1 - rate) * count)
  assert any((one != epochs[0]).any() for one in epochs[1:])


def test_size_of_a_set_does_not_change_its_share(make_config, folder, layout):
  def draws(limit):
    config = make_config({'a': source('folder', 'image', path=str(folder), limit=limit),
                          'b': source('shapes', 'pair')}, rows=8)
    return np.concatenate([batch.batch.meta.task_ids for batch in run(config, layout, 50)])
  np.testing.assert_array_equal(draws(10), draws(20))
  assert abs((draws(10) == 0).mean() - 0.5) < 3 * 0.5 / np.sqrt(400)


def test_schedule_follows_the_step(make_config, layout):
  config = make_config({'a': source('shapes', 'image', share=(1.0, 0.0)),
                        'b': source('shapes', 'pair', share=(0.0, 1.0))}, rows=50, steps=10)
  shares = [(batch.batch.meta.task_ids == 1).mean() for batch in run(config, layout, 12)]
  assert shares[0] == 0 and shares[10] == shares[11] == 1
  assert abs(shares[5] - 0.5) < 4 * 0.5 / np.sqrt(50)
  later = run(config, layout, 1, start_step=10)[0]
  assert (later.batch.meta.task_ids == 1).all()


def test_packed_rows_keep_every_sample(make_config, folder, layout):
  """Three samples would fit by count, two by tokens: the third opens the next row."""
  config = make_config({'a': source('folder', 'pair', path=str(folder))}, rows=2,
                       segments_per_row=3, visual_tokens=40)
  loader = make_loader(config, layout)
  batches = take(loader, 5)
  names = [name for batch in batches for ids in batch.ids for name in ids]
  assert all(len(ids) == 2 for batch in batches for ids in batch.ids)
  assert sorted(names) == [f'{index:02d}.png' for index in range(20)]
  assert loader.report()['padding_share'] == pytest.approx(8 / 40)
  loader.close()


def test_over_long_sample_is_named(make_config, folder, layout):
  config = make_config({'a': source('folder', 'pair', path=str(folder))}, visual_tokens=15)
  with pytest.raises(UserError, match=r'^sample \d\d\.png: has 16 visual tokens, .* holds 15; '
                                      'raise config.data.visual_tokens'):
    run(config, layout, 1)


def test_foreign_state_is_refused(mixed, layout):
  loader = make_loader(mixed, layout)
  with pytest.raises(UserError, match=r'= \[4, 2\]: this config has \[4, 3\]'):
    loader.restore(np.zeros((4, 2), np.int64), 7)
  loader.close()


@pytest.mark.parametrize('fields, message', [
    ({'vision_size': 10}, r'^config.data.vision_size = 10: use a multiple of 4'),
    ({'image_size': 18}, r'^config.data.image_size = 18: use a multiple of 4'),
    ({'prompt_tokens': 3}, r'^config.data.empty_prompt: the prompt has 4 tokens'),
])
def test_bad_sizes(fields, message, make_config, layout):
  with pytest.raises(UserError, match=message):
    make_loader(make_config({'a': source('shapes', 'image')}, **fields), layout)
