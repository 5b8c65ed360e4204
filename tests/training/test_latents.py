"""Images become latent tokens in their own slots, on the devices of their rows, ahead of the step."""

import re

import jax
import numpy as np
import pytest

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.models.registry import section
from jaxgen.operations.programs import Programs
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.latents import Encoder
from jaxgen.training.latents import Feed
from jaxgen.training.latents import images_at_once

SIZE = (16, 16)


@pytest.fixture
def packed(tiny_config):
  """Eight rows of three samples of 16 tokens each, and 4 tokens of padding."""
  tiny_config.data.update(segments_per_row=3, visual_tokens=52, prompt_tokens=120)
  return tiny_config


def rows_of(config):
  return partition.row_sharding(make_mesh(config.mesh), config.train.rows)


def encoder_of(config, system, params, sizes=(SIZE,), most=0):
  shape = (config.train.rows, config.data.visual_tokens, system.layout.latent.channels)
  return Encoder(system, params, sizes, rows_of(config), shape, most)


def first_batch(config, system):
  loader = make_loader(config, system.layout)
  loaded, sizes = next(loader), loader.image_sizes
  loader.close()
  assert sizes == (SIZE,)
  return loaded


@pytest.mark.parametrize('family', ['pixel', 'kl'])
def test_every_image_fills_its_slot_and_padding_stays_zero(packed, family):
  if family == 'kl':
    packed.model.autoencoder = section(
        'kl', channels=12, block_channels=(8, 8), layers_per_block=1, norm_groups=4)
  system = make_system(packed)
  params = system.init(jax.random.PRNGKey(1), ('autoencoder',))
  loaded = first_batch(packed, system)
  encoder = encoder_of(packed, system, params)
  latents = encoder(loaded)
  assert latents.sharding == rows_of(packed) and latents.shape == (8, 52, 48)
  (images, slots), = loaded.images.values()
  assert len(images) == 24
  expected = np.zeros((8 * 52, 48), np.float32)
  encoded = np.asarray(jax.jit(lambda images: system.encode(params, images / 127.5 - 1))(
      images.astype(np.float32)))
  for tokens, slot in zip(encoded, slots, strict=True):
    expected[slot:slot + 16] = tokens
  found = np.asarray(latents)
  np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
  assert not found[:, 48:].any() and found[:, :48].any(axis=-1).all()
  # The same program on images in other slots gives the same bits.
  assert encoder.room(SIZE) == 24
  alone = encoder.encode(images[::-1][:7])
  np.testing.assert_array_equal(alone, found.reshape(-1, 48)[slots[::-1][:7, None] + np.arange(16)])


def test_a_device_encodes_the_images_of_its_own_rows_only(packed, tiny_system):
  loaded = first_batch(packed, tiny_system)
  encoder = encoder_of(packed, tiny_system, {})
  whole = np.asarray(encoder(loaded))
  images, slots = loaded.images[SIZE]
  row = slots // 52
  loaded.images[SIZE] = images[row == 5], slots[row == 5]
  found = np.asarray(encoder(loaded))
  np.testing.assert_array_equal(found[5], whole[5])
  assert not found[[0, 1, 2, 3, 4, 6, 7]].any()
  # A call takes what a device's row holds, not what the batch holds, and nothing is sent between
  # devices.
  count, program = encoder.program(SIZE)
  assert count == 3
  text = program.as_text()
  assert 'u8[1,3,16,16,3]' in text
  assert not re.search(r'all-(gather|reduce|to-all)|collective-permute', text)


def test_known_latents_are_kept_beside_those_that_are_encoded(packed, tiny_system):
  loaded = first_batch(packed, tiny_system)
  encoder = encoder_of(packed, tiny_system, {})
  whole = np.asarray(encoder(loaded))
  images, slots = loaded.images[SIZE]
  for slot in slots[::2]:
    loaded.batch.visual.latents.reshape(-1, 48)[slot:slot + 16] = whole.reshape(-1, 48)[
        slot:slot + 16]
  loaded.images[SIZE] = images[1::2], slots[1::2]
  np.testing.assert_array_equal(np.asarray(encoder(loaded)), whole)


def test_programs_are_made_once_for_each_size_and_up_to_a_limit(packed, tiny_system):
  loaded = first_batch(packed, tiny_system)
  images, slots = loaded.images.pop(SIZE)
  at = list(slots).index(2 * 52 + 16)  # the second image of the third row
  other = {(8, 16): (np.zeros((1, 8, 16, 3), np.uint8), slots[at:at + 1])}
  encoder = encoder_of(packed, tiny_system, {}, most=2)
  encoder(loaded)
  for expected in (1, 0, 0):
    loaded.images.update(other)
    with Programs() as programs:
      encoder(loaded)
    assert programs.count == expected
  loaded.images[24, 16] = np.zeros((1, 24, 16, 3), np.uint8), slots[at:at + 1]
  with pytest.raises(UserError, match=re.escape(f'sample {loaded.ids[2][1]} = (24, 16): no program')
                     + r'.*known are 2: \(16, 16\), \(8, 16\); use buckets'):
    encoder(loaded)


def test_images_at_once_fit_the_budget_and_the_batch():
  assert images_at_once((1024, 1024), 8, 16384, 1, 16) == 4  # of 32 that the rows hold
  assert images_at_once((1024, 1024), 1, 4096, 1, 16) == 1
  assert images_at_once((512, 512), 1, 4096, 37, 16) == 1  # sizes share a batch
  assert images_at_once((2048, 2048), 1, 4096, 1, 16) == 1


def test_the_feed_is_ahead_but_its_cursors_are_not(tiny_config, tiny_system):
  plain = make_loader(tiny_config, tiny_system.layout)
  loader = make_loader(tiny_config, tiny_system.layout)
  feed = Feed(loader, encoder_of(tiny_config, tiny_system, {}), rows_of(tiny_config), 8)
  for _ in range(4):
    peeked, loaded = feed.peek(), next(plain)
    fed = next(feed)
    assert fed.batch is peeked.batch and feed.peek().batch is not peeked.batch
    np.testing.assert_array_equal(fed.cursors, plain.state())
    np.testing.assert_array_equal(fed.batch.meta.sample_ids, loaded.batch.meta.sample_ids)
    assert fed.ids == loaded.ids
    assert fed.batch.visual.latents.sharding == rows_of(tiny_config)
  feed.close()
  plain.close()


def test_an_error_of_the_data_reaches_the_loop(tiny_config, tiny_system, tmp_path):
  (tmp_path / 'broken.png').write_bytes(b'not an image')
  tiny_config.data.sources = {'photos': source('folder', 'image', path=str(tmp_path))}
  loader = make_loader(tiny_config, tiny_system.layout)
  feed = Feed(loader, encoder_of(tiny_config, tiny_system, {}), rows_of(tiny_config), 8)
  with pytest.raises(UserError, match='broken.png'):
    next(feed)
  feed.close()
