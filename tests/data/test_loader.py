"""The loader: exact resume on any number of processes, every sample once an epoch, look-ahead."""

import functools
import itertools
from collections import Counter

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxgen.core.errors import UserError
from jaxgen.data.buckets import CANONICAL_BUCKETS
from jaxgen.data.example import Example
from jaxgen.data.example import LatentImage
from jaxgen.data.example import Patches
from jaxgen.data.example import TokenizedPrompt
from jaxgen.data.loader import Loader
from jaxgen.data.loader import _Rows
from jaxgen.data.mixture import Mixture
from jaxgen.data.packing import RowShape
from jaxgen.data.positions import grid_positions
from jaxgen.data.positions import image_positions
from jaxgen.data.streams import Stream
from jaxgen.data.streams import Supply


class Broken:
  """What stands for a record that cannot be decoded."""

  def __init__(self, record):
    self.name, self.reason = str(record), 'no image'


class Drawings:
  """Endless examples of one source, in another order each epoch.

  Args:
    source: index in the mixture.
    records: records of the source.
    sizes: the images of each record, as (height, width): conditions and last the target.
    broken: records that cannot be decoded.
  """

  def __init__(self, source, records, sizes, broken=()):
    self._source, self._sizes, self._broken = source, sizes, broken
    self._records = records
    self._epoch = functools.cache(
        lambda epoch: np.random.default_rng([source, epoch]).permutation(records).tolist())
    self.bad = {}
    self.target_sizes = sorted({size for record in range(records) for size in sizes(record)})

  def __len__(self):
    return self._records

  def __getitem__(self, position):
    record = self._epoch(position // self._records)[position % self._records]
    if record in self._broken:
      return self.bad.setdefault(record, Broken(record))
    sizes = self._sizes(record)
    words = 2 + record % 3
    places = np.zeros((words, 3), np.int32)
    index = np.full(words, -1, np.int32)
    prompt = TokenizedPrompt(np.full(words, record, np.int32), places, np.zeros(words, np.float32),
                             index, index, np.ones(words, bool), places)
    patches = Patches(np.full((4, 48), position, np.float32), grid_positions(2, 2),
                      np.ones(4, np.int32), np.zeros(4, bool))
    images = tuple(
        LatentImage((height, width), image_positions(height // 4, width // 4),
                    number == len(sizes), np.full((height, width, 3), record % 256, np.uint8))
        for number, (height, width) in enumerate(sizes, start=1))
    return Example(f'{self._source}/{record}', self._source, prompt, patches, images)


def square(record):
  return ((16, 16),)


def several(record):
  """No, one or two references and a target, of 4 to 52 tokens in all."""
  return (((8, 8), (16, 24))[:record % 3]) + (((16, 16), (8, 16), (8, 8))[record % 5 % 3],)


def make_config(shares, *, rows=4, steps=20, interpolation='linear', **data):
  fields = dict(segments_per_row=1, visual_tokens=16, prompt_tokens=40, patches=0, threads=2,
                prefetch=2, look_ahead=0, oversize='refuse')
  return ConfigDict(dict(
      seed=0, train=dict(rows=rows, steps=steps),
      data=dict(sources={name: dict(share=share) for name, share in shares.items()},
                interpolation=interpolation) | fields | data))


def open_loader(config, layout, sequences, *, rows=None, start_step=0):
  shape = RowShape.of(config.data, layout, sees=True)
  return Loader(_Rows(config, rows or (0, config.train.rows), start_step, sequences, shape, 0),
                config.data.prefetch)


def mixed_sequences():
  return [Drawings(0, 20, several), Drawings(1, 50, several)]


@pytest.fixture(params=[0, 3], ids='look_ahead={}'.format)
def mixed(request):
  """Two sources on a ramp; rows of up to four samples and 60 tokens."""
  return make_config({'drawn': (0.2, 0.8), 'photos': (0.8, 0.2)}, segments_per_row=4,
                     visual_tokens=60, look_ahead=request.param)


def take(loader, count):
  return list(itertools.islice(loader, count))


def run(config, layout, sequences, count, **kwargs):
  loader = open_loader(config, layout, sequences, **kwargs)
  found = take(loader, count)
  loader.close()
  return found


def assert_same(one, other):
  assert one.ids == other.ids
  jax.tree.map(np.testing.assert_array_equal, one.batch, other.batch)
  jax.tree.map(np.testing.assert_array_equal, one.images, other.images)


def names_of(batches):
  return [name for batch in batches for ids in batch.ids for name in ids]


def test_resume_on_one_and_on_two_processes(mixed, layout):
  straight = run(mixed, layout, mixed_sequences(), 20)
  first = open_loader(mixed, layout, mixed_sequences())
  take(first, 7)
  state = first.state()
  first.close()
  assert state.shape == (4, 3 + 2 * mixed.data.look_ahead) and state.dtype == np.int64

  one = open_loader(mixed, layout, mixed_sequences())
  one.restore(state, 7)
  np.testing.assert_array_equal(one.state(), state)
  for expected in straight[7:]:
    assert_same(next(one), expected)
  one.close()

  halves = [open_loader(mixed, layout, mixed_sequences(), rows=rows) for rows in ((0, 2), (2, 4))]
  halves[0].restore(state[:2], 7)
  halves[1].restore(state[2:], 7)
  for expected in straight[7:]:
    got = [next(half) for half in halves]
    assert sum((half.ids for half in got), ()) == expected.ids
    jax.tree.map(lambda whole, *parts: np.testing.assert_array_equal(np.concatenate(parts), whole),
                 expected.batch, *(half.batch for half in got))
  rejoined = np.concatenate([half.state() for half in halves])
  for half in halves:
    half.close()
  whole = open_loader(mixed, layout, mixed_sequences())
  take(whole, 20)
  np.testing.assert_array_equal(rejoined, whole.state())
  whole.close()


def test_state_is_that_of_the_batch_handed_out(mixed, layout):
  loader = open_loader(mixed, layout, mixed_sequences())
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


def test_threads_and_prefetch_change_nothing(mixed, layout):
  straight = run(mixed, layout, mixed_sequences(), 4)
  mixed.data.update(threads=1, prefetch=1)
  for one, other in zip(run(mixed, layout, mixed_sequences(), 4), straight):
    assert_same(one, other)


def test_rows_carry_their_number_in_the_global_batch(mixed, layout):
  for batch in run(mixed, layout, mixed_sequences(), 2, rows=(1, 3)):
    assert batch.batch.meta.rows.tolist() == [1, 2]


def test_without_look_ahead_rows_follow_the_draws(layout):
  """What the loader has always done, written out: draw in order, put back what does not fit."""
  config = make_config({'drawn': (0.2, 0.8), 'photos': (0.8, 0.2)}, segments_per_row=4,
                       visual_tokens=60)
  mixture = Mixture({'drawn': (0.2, 0.8), 'photos': (0.8, 0.2)}, 0)
  sequences, draws, used = mixed_sequences(), [0] * 4, [[0, 0] for _ in range(4)]
  for step, batch in enumerate(run(config, layout, mixed_sequences(), 20)):
    for row, ids in enumerate(batch.ids):
      expected, left = [], 60
      while len(expected) < 4:
        source = mixture.draw(row, draws[row], step / 20)
        example = sequences[source][row + 4 * used[row][source]]
        left -= sum(len(image.positions) for image in example.images)
        if left < 0:
          break
        draws[row], used[row][source] = draws[row] + 1, used[row][source] + 1
        expected.append(example.id)
      assert list(ids) == expected


def test_look_ahead_loses_nothing_and_starves_nothing(layout):
  """Every draw comes exactly once, at the latest K batches after it was made."""
  look_ahead, records = 5, 500
  config = make_config({'a': (1.0,)}, rows=2, segments_per_row=4, visual_tokens=60,
                       look_ahead=look_ahead)
  sequence = Drawings(0, records, several)
  loader = open_loader(config, layout, [sequence])
  came, drawn_by = [[], []], [[], []]
  for step in range(40):
    batch = next(loader)
    for row, cursor in enumerate(loader.state()):
      drawn_by[row] += [step] * int(cursor[0] - len(drawn_by[row]))
      came[row] += [(name, step) for name in batch.ids[row]]
  for row, cursor in enumerate(loader.state()):
    order = [sequence[row + 2 * number].id for number in range(int(cursor[0]))]
    waiting = [sequence[position].id for position in cursor[3::2] if position >= 0]
    assert sorted(order) == sorted([name for name, _ in came[row]] + waiting)
    assert [name for name, _ in came[row]] != order[:len(came[row])]
    late = [step - drawn_by[row][order.index(name)] for name, step in came[row]]
    assert 0 < max(late) <= look_ahead
  loader.close()


def test_a_stream_is_its_cursor(layout):
  shape = RowShape.of(make_config({}, visual_tokens=60, segments_per_row=4).data, layout, sees=True)
  supply = Supply(Mixture({'a': (1.0,)}, 0), [Drawings(0, 30, several)], shape, 2, skip=False)
  stream = Stream(1, supply, Stream.start(1, 3))
  stream.fill(0.0)
  cursor = stream.cursor()
  assert (cursor >= 0).sum() > 2  # something waits
  twin = Stream(1, supply, cursor)
  np.testing.assert_array_equal(twin.cursor(), cursor)  # before its examples are made again, too
  assert [[example.id for example in stream.fill(0.0)] for _ in range(9)] == [
      [example.id for example in twin.fill(0.0)] for _ in range(9)]


# Padding of rows of 36,864 tokens (the most that L144 allows) by look-ahead, in percent.
PADDING = {0: 13.4, 4: 3.3, 8: 1.9, 16: 1.3}


class Canonical:
  """Samples of a target and 0-4 references, each of some canonical size; nothing but counts."""

  bad, target_sizes, sees = {}, CANONICAL_BUCKETS, False
  empty = np.zeros(0, np.int32)
  prompt = TokenizedPrompt(empty, np.zeros((0, 3), np.int32), empty, empty, empty, empty,
                           np.zeros((0, 3), np.int32))
  patches = Patches(np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int32), empty, empty)

  def __len__(self):
    return 10_000

  @functools.cache
  def __getitem__(self, position):
    rng = np.random.default_rng(position)
    sizes = [CANONICAL_BUCKETS[index] for index in rng.integers(0, 37, rng.integers(1, 6))]
    images = tuple(LatentImage(size, image_positions(size[0] // 16, size[1] // 16), True)
                   for size in sizes)
    return Example(str(position), 0, self.prompt, self.patches, images)


@pytest.fixture(scope='module')
def canonical():
  return Canonical()


@pytest.mark.parametrize('look_ahead, percent', PADDING.items())
def test_padding(look_ahead, percent, canonical):
  """10,000 samples of the 37 canonical sizes with 0-4 references (F85)."""
  shape = RowShape(segments=32, visual_tokens=36_864, prompt_tokens=0, patches=0, patch_dim=0,
                   merge=1, latent_factor=16, latent_channels=1)
  supply = Supply(Mixture({'a': (1.0,)}, 0), [canonical], shape, total_rows=1, skip=False)
  stream = Stream(0, supply, Stream.start(1, look_ahead))
  rows, placed = [], 0
  while placed < 10_000:
    rows.append(stream.fill(0.0))
    placed += len(rows[-1])
  tokens = sum(shape.needs(example)['visual tokens'] for row in rows for example in row)
  share = 100 * (1 - tokens / (36_864 * len(rows)))
  assert share == pytest.approx(percent, abs=0.2)
  assert look_ahead < 8 or share <= 3


def test_every_sample_once_an_epoch_in_another_order(layout):
  loader = open_loader(make_config({'a': (1.0,)}), layout, [Drawings(0, 20, square)])
  epochs = [names_of(take(loader, 5)) for _ in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == sorted(f'0/{record}' for record in range(20))
  assert epochs[0] != epochs[1] != epochs[2]
  report = loader.report()
  assert report == {'epochs': {'a': 3.0}, 'skipped': {}, 'oversize': {}, 'padding_share': 0.0}
  loader.close()


def test_rows_that_do_not_divide_the_set_still_see_all_of_it(layout):
  config = make_config({'a': (1.0,)}, rows=3)
  names = names_of(run(config, layout, [Drawings(0, 13, square)], 13))
  assert Counter(names) == {f'0/{record}': 3 for record in range(13)}


def test_packed_rows_keep_every_sample(layout):
  """Three samples would fit by count, two by tokens: the third opens the next row."""
  config = make_config({'a': (1.0,)}, rows=2, segments_per_row=3, visual_tokens=40)
  loader = open_loader(config, layout, [Drawings(0, 20, square)])
  batches = take(loader, 5)
  assert all(len(ids) == 2 for batch in batches for ids in batch.ids)
  assert sorted(names_of(batches)) == sorted(f'0/{record}' for record in range(20))
  assert loader.report()['padding_share'] == pytest.approx(8 / 40)
  loader.close()


def test_image_sizes_are_known_before_the_first_batch(mixed, layout):
  loader = open_loader(mixed, layout, mixed_sequences())
  assert loader.image_sizes == ((8, 8), (8, 16), (16, 16), (16, 24))
  assert {size for batch in take(loader, 10) for size in batch.images} == set(loader.image_sizes)
  loader.close()


@pytest.mark.parametrize('look_ahead', [0, 3])
def test_broken_records_are_passed_over_and_named(look_ahead, layout):
  config = make_config({'a': (1.0,)}, segments_per_row=2, visual_tokens=32, look_ahead=look_ahead)
  loader = open_loader(config, layout, [Drawings(0, 20, square, broken=(3, 5))])
  assert set(names_of(take(loader, 12))) == {f'0/{record}' for record in range(20)} - {
      '0/3', '0/5'}
  assert loader.report()['skipped'] == {'3': 'no image', '5': 'no image'}
  loader.close()


def one_large(record):
  return ((16, 16),) * (3 if record == 7 else 1)


@pytest.mark.parametrize('look_ahead', [0, 2])
def test_a_sample_over_the_budget_is_refused_or_skipped_by_name(look_ahead, layout):
  config = make_config({'a': (1.0,)}, segments_per_row=2, visual_tokens=32, look_ahead=look_ahead)
  reason = 'has 48 visual tokens, but a row holds 32; raise config.data.visual_tokens'
  with pytest.raises(UserError, match=f'^sample 0/7: {reason}'):
    run(config, layout, [Drawings(0, 20, one_large)], 20)
  config.data.oversize = 'skip'
  loader = open_loader(config, layout, [Drawings(0, 20, one_large)])
  assert set(names_of(take(loader, 12))) == {f'0/{record}' for record in range(20)} - {'0/7'}
  assert loader.report()['oversize'] == {'0/7': reason}
  loader.close()


def test_a_source_of_nothing_but_large_samples_is_an_error(layout):
  config = make_config({'a': (1.0,)}, visual_tokens=15, oversize='skip')
  with pytest.raises(UserError, match=r'^config.data.sources.a: 1000 samples in succession .*'
                                      r'has 16 visual tokens'):
    run(config, layout, [Drawings(0, 20, square)], 1)


def test_size_of_a_set_does_not_change_its_share(layout):
  def drawn(records):
    config = make_config({'a': (1.0,), 'b': (1.0,)}, rows=8)
    batches = run(config, layout, [Drawings(0, records, square), Drawings(1, 20, square)], 50)
    return np.concatenate([batch.batch.meta.source_ids for batch in batches])
  np.testing.assert_array_equal(drawn(10), drawn(20))
  assert abs((drawn(10) == 0).mean() - 0.5) < 3 * 0.5 / np.sqrt(400)


def test_schedule_follows_the_step(layout):
  sequences = [Drawings(0, 20, square), Drawings(1, 20, square)]
  config = make_config({'a': (1.0, 0.0), 'b': (0.0, 1.0)}, rows=50, steps=10)
  shares = [(batch.batch.meta.source_ids == 1).mean()
            for batch in run(config, layout, sequences, 12)]
  assert shares[0] == 0 and shares[10] == shares[11] == 1
  assert abs(shares[5] - 0.5) < 4 * 0.5 / np.sqrt(50)
  later = run(config, layout, sequences, 1, start_step=10)[0]
  assert (later.batch.meta.source_ids == 1).all()
  config.data.interpolation = 'step'
  shares = [(batch.batch.meta.source_ids == 1).mean()
            for batch in run(config, layout, sequences, 10)]
  assert shares == [0] * 5 + [1] * 5


def test_foreign_state_is_refused(layout):
  config = make_config({'a': (1.0,), 'b': (1.0,)}, look_ahead=2)
  loader = open_loader(config, layout, [Drawings(0, 20, square), Drawings(1, 20, square)])
  for width in (2, 3, 9):
    with pytest.raises(UserError, match=rf'= \[4, {width}\]: this config has \[4, 7\].*look_ahead'):
      loader.restore(np.zeros((4, width), np.int64), 7)
  loader.close()
