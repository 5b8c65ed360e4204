"""Images become latent tokens in their own slots, one batch ahead of the step."""

import re

import jax
import numpy as np
import pytest

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.models.registry import section
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.latents import Encoder
from jaxgen.training.latents import Feed


@pytest.fixture
def packed(tiny_config):
  """Rows of three samples each, so that 24 images do not fill two chunks of 32."""
  tiny_config.data.update(segments_per_row=3, visual_tokens=52, prompt_tokens=120)
  return tiny_config


@pytest.mark.parametrize('family', ['pixel', 'kl'])
def test_every_image_fills_its_slot_and_padding_stays_zero(packed, family):
  if family == 'kl':
    packed.model.autoencoder = section(
        'kl', channels=4, block_channels=(8, 8), layers_per_block=1, norm_groups=4)
    packed.model.denoiser.in_channels = 16
  system = make_system(packed)
  params = system.init(jax.random.PRNGKey(1), ('autoencoder',))
  loader = make_loader(packed, system.layout)
  loaded = next(loader)
  loader.close()
  latents = Encoder(system, params, loader.image_sizes).fill(loaded).visual.latents
  (images, slots), = loaded.images.values()
  assert len(images) == 24
  expected = np.zeros_like(latents).reshape(-1, latents.shape[-1])
  encode = jax.jit(lambda image: system.encode(params, image[None] / 127.5 - 1)[0])
  for image, slot in zip(images, slots, strict=True):
    tokens = encode(image.astype(np.float32))
    expected[slot:slot + len(tokens)] = tokens
  np.testing.assert_allclose(latents.reshape(expected.shape), expected, atol=1e-5)
  assert not latents[:, 48:].any() and latents[:, :48].any(axis=-1).all()


def test_an_image_of_a_size_that_was_not_announced_is_named(packed, tiny_system):
  loader = make_loader(packed, tiny_system.layout)
  loaded = next(loader)
  loader.close()
  assert loader.image_sizes == ((16, 16),)
  images, slots = loaded.images.pop((16, 16))
  # The second image of the third row is larger than any other.
  at = list(slots).index(2 * 52 + 16)
  loaded.images[24, 16] = np.zeros((1, 24, 16, 3), np.uint8), slots[at:at + 1]
  with pytest.raises(UserError, match=re.escape(f'sample {loaded.ids[2][1]} = (24, 16): no program')
                     + r'.*known are \(16, 16\)'):
    Encoder(tiny_system, {}, loader.image_sizes).fill(loaded)


def test_the_feed_is_ahead_but_its_cursors_are_not(tiny_config, tiny_system):
  mesh = make_mesh(tiny_config.mesh)
  rows = partition.row_sharding(mesh, 8)
  plain = make_loader(tiny_config, tiny_system.layout)
  loader = make_loader(tiny_config, tiny_system.layout)
  feed = Feed(loader, Encoder(tiny_system, {}, loader.image_sizes), rows, 8)
  peeked = feed.peek()
  for step in range(3):
    loaded, fed = next(plain), next(feed)
    assert (fed.batch is peeked.batch) == (step == 0)
    np.testing.assert_array_equal(fed.cursors, plain.state())
    np.testing.assert_array_equal(fed.batch.meta.sample_ids, loaded.batch.meta.sample_ids)
    assert fed.ids == loaded.ids and fed.batch.visual.latents.sharding == rows
  feed.close()
  plain.close()


def test_an_error_of_the_data_reaches_the_loop(tiny_config, tiny_system, tmp_path):
  (tmp_path / 'broken.png').write_bytes(b'not an image')
  tiny_config.data.sources = {'photos': source('folder', 'image', path=str(tmp_path))}
  rows = partition.row_sharding(make_mesh(tiny_config.mesh), 8)
  loader = make_loader(tiny_config, tiny_system.layout)
  feed = Feed(loader, Encoder(tiny_system, {}, loader.image_sizes), rows, 8)
  with pytest.raises(UserError, match='broken.png'):
    next(feed)
  feed.close()
