"""Vectors of images and texts: as transformers' classes give them, in batches, on eight devices."""

import json
import pathlib

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data.sample import FileImage
from jaxgen.features.embed import embed_images
from jaxgen.features.embed import embed_texts
from jaxgen.features.towers import open_tower
from jaxgen.features.vectors import unit
from tests.features import folders


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  """``(their model, our tower)``."""
  folder = str(tmp_path_factory.mktemp('towers') / 'clip')
  return folders.save_clip(folder), open_tower(folder)


def pictures(count, seed=0):
  """Images of different sizes, some wide and some high."""
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*rng.integers(18, 60, 2), 3), np.uint8) for _ in range(count)]


def test_images_of_any_size_are_embedded_as_by_the_class(clip, tmp_path):
  """Arrays, bytes and files; eleven in batches of eight on eight devices, in their order."""
  theirs, tower = clip
  images = pictures(11)
  file = tmp_path / 'image.png'
  Image.fromarray(images[10]).save(file)
  given = [*images[:9], file.read_bytes(), FileImage(str(file))]
  found = embed_images(tower, iter(given), batch=8)
  assert tower.mesh.size == jax.local_device_count() == 8
  with torch.no_grad():
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(tower.folder)(
        images=[Image.fromarray(image) for image in [*images[:9], images[10], images[10]]],
        return_tensors='pt')
    expected = theirs.get_image_features(**pixels).pooler_output.numpy()
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_array_equal(found[9], found[10])
  one = embed_images(tower, images[:1])
  np.testing.assert_allclose(one, found[:1], atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(unit(found), axis=1), 1, atol=1e-6)


def test_vectors_of_zeros_have_no_direction():
  found = unit(np.array([[0, 0], [3, 4], [1e-20, 0]]))
  np.testing.assert_array_equal(found[0], 0)
  np.testing.assert_allclose(found[1], [0.6, 0.8], rtol=1e-6)
  assert found.dtype == np.float32 and np.isfinite(found).all()


def test_texts_are_embedded_as_by_the_class(clip):
  """Of different lengths, one of them longer than the tower reads."""
  theirs, tower = clip
  texts = ['a dog', 'a red bench in the snow', 'many words ' * 20]
  with torch.no_grad():
    tokens = transformers.AutoTokenizer.from_pretrained(tower.folder)(
        texts, padding=True, truncation=True, max_length=folders.TEXT_LENGTH, return_tensors='pt')
    expected = theirs.get_text_features(**tokens).pooler_output.numpy()
  np.testing.assert_allclose(embed_texts(tower, texts), expected, atol=1e-5)
  assert embed_texts(tower, []).shape == (0, 0)


# Class and settings, as they are published for DINO, DINOv2, CLIP and SigLIP 2; the first and the
# third in the spelling of the first versions, which leave out what the class knows.
PROCESSORS = [
    (transformers.ViTImageProcessorPil, dict(
        do_normalize=True, do_resize=True, feature_extractor_type='ViTFeatureExtractor',
        image_mean=[.485, .456, .406], image_std=[.229, .224, .225], resample=3, size=24)),
    (transformers.BitImageProcessorPil, dict(
        crop_size=dict(height=24, width=24), do_center_crop=True, do_convert_rgb=True,
        do_normalize=True, do_rescale=True, do_resize=True, image_mean=[.485, .456, .406],
        image_processor_type='BitImageProcessor', image_std=[.229, .224, .225], resample=3,
        rescale_factor=1 / 255, size=dict(shortest_edge=28))),
    (transformers.CLIPImageProcessorPil, dict(
        crop_size=24, do_center_crop=True, do_normalize=True, do_resize=True,
        feature_extractor_type='CLIPFeatureExtractor', image_mean=[.48145466, .4578275, .40821073],
        image_std=[.26862954, .26130258, .27577711], resample=3, size=24)),
    (transformers.SiglipImageProcessorPil, dict(
        do_convert_rgb=None, do_normalize=True, do_rescale=True, do_resize=True,
        image_mean=[.5, .5, .5], image_processor_type='SiglipImageProcessor',
        image_std=[.5, .5, .5], processor_class='SiglipProcessor', resample=2,
        rescale_factor=1 / 255, size=dict(height=24, width=24)))]


@pytest.mark.parametrize('kind, settings', PROCESSORS, ids=lambda value: getattr(
    value, '__name__', ''))
def test_pixels_equal_those_of_the_class(kind, settings, clip, tmp_path):
  """Every published way to say it; sides of three pixels are no colours."""
  folder = pathlib.Path(tmp_path / 'tower')
  folders.save_dino(str(folder))
  (folder / 'preprocessor_config.json').write_text(json.dumps(settings))
  tower, expected = open_tower(str(folder)), kind.from_pretrained(folder)
  for image in [*pictures(3, seed=1), np.full((3, 50, 3), 7, np.uint8)]:
    wanted = expected(images=Image.fromarray(image), return_tensors='np')['pixel_values'][0]
    found = tower.pixels(image)
    assert found.shape == (24, 24, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted.transpose(1, 2, 0))


def test_a_naflex_keeps_the_aspects_of_images(tmp_path):
  """Pixels equal the class's own, and so do vectors, of small, wide and high ones in one batch."""
  theirs, tower = folders.save_naflex(str(tmp_path)), open_tower(str(tmp_path))
  processor = transformers.Siglip2ImageProcessorPil.from_pretrained(tmp_path)
  given = [*pictures(9, seed=2), np.full((3, 50, 3), 7, np.uint8)]
  wanted = processor(images=[Image.fromarray(image) for image in given], return_tensors='pt')
  assert len({tuple(grid) for grid in wanted['spatial_shapes'].tolist()}) > 3
  assert (wanted['pixel_attention_mask'] == 0).any()
  for image, values, grid in zip(given, wanted['pixel_values'], wanted['spatial_shapes']):
    found = tower.pixels(image)
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.grids, grid)
  with torch.no_grad():
    expected = theirs.get_image_features(**wanted).pooler_output.numpy()
  np.testing.assert_allclose(embed_images(tower, given, batch=8), expected, atol=1e-5)
  assert np.abs(expected).mean() > 0.1


def test_what_is_no_tower_is_named(tmp_path):
  folder = tmp_path / 'dino'
  folders.save_dino(str(folder))
  with pytest.raises(UserError, match='reads images alone; give a CLIP or a SigLIP'):
    embed_texts(open_tower(str(folder)), ['a dog'])
  (folder / 'preprocessor_config.json').write_text(json.dumps(dict(
      image_processor_type='ViTImageProcessor', do_resize=False)))
  with pytest.raises(UserError, match='gives images of several sizes'):
    embed_images(open_tower(str(folder)), [np.zeros((16, 16, 3), np.uint8),
                                           np.zeros((24, 16, 3), np.uint8)])
  (folder / 'preprocessor_config.json').write_text(
      '{"image_processor_type": "Siglip2ImageProcessor"}')
  with pytest.raises(UserError, match='Siglip2.*one of the two is a NaFlex; copy'):
    open_tower(str(folder))
  (folder / 'preprocessor_config.json').write_text('{')
  with pytest.raises(UserError, match='is no image processor of transformers'):
    open_tower(str(folder))
  (folder / 'preprocessor_config.json').unlink()
  with pytest.raises(UserError, match='has no preprocessor_config.json'):
    open_tower(str(folder))
  transformers.CLIPTextConfig(vocab_size=9, eos_token_id=1, bos_token_id=0).save_pretrained(
      tmp_path / 'text')
  (tmp_path / 'text/preprocessor_config.json').write_text('{"image_processor_type": '
                                                          '"CLIPImageProcessor"}')
  with pytest.raises(UserError, match=r"'clip_text_model': not a tower that jaxgen can read; "
                     r"known: \['clip', 'dinov2', 'dinov2_with_registers', 'siglip', 'siglip2', "
                     r"'vit'\]"):
    open_tower(str(tmp_path / 'text'))
