"""Every odd kind of image file decodes to the pixels it shows, and is left as it was."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import decode
from jaxgen.data.sample import FileImage

# Red, green, blue and white quarters, 16 x 24, so that turns and flips show.
QUARTERS = np.zeros((16, 24, 3), np.uint8)
QUARTERS[:8, :12] = (255, 0, 0)
QUARTERS[:8, 12:] = (0, 255, 0)
QUARTERS[8:, :12] = (0, 0, 255)
QUARTERS[8:, 12:] = (255, 255, 255)
RAMP = np.tile(np.arange(24, dtype=np.uint8) * 10, (16, 1))


def _exif(path):
  exif = Image.Exif()
  exif[0x0112] = 6  # turned: shown after a quarter turn clockwise
  Image.fromarray(np.rot90(QUARTERS).copy()).save(path, exif=exif)
  return QUARTERS


def _rgba(path):
  alpha = np.zeros((16, 24, 1), np.uint8)
  alpha[:8] = 255
  alpha[8:, :12] = 51
  Image.fromarray(np.concatenate([QUARTERS, alpha], -1)).save(path)
  expected = np.full_like(QUARTERS, 255)
  expected[:8] = QUARTERS[:8]
  expected[8:, :12] = (204, 204, 255)
  return expected


def _palette(path):
  Image.fromarray(QUARTERS).convert('P', palette=Image.Palette.ADAPTIVE, colors=4).save(path)
  return QUARTERS


def _transparent_palette(path):
  image = Image.fromarray(QUARTERS).convert('P', palette=Image.Palette.ADAPTIVE, colors=4)
  image.save(path, transparency=int(np.asarray(image)[0, 0]))
  expected = QUARTERS.copy()
  expected[:8, :12] = 255
  return expected


def _grey(path):
  Image.fromarray(RAMP).save(path)
  return np.repeat(RAMP[..., None], 3, -1)


def _cmyk(path):
  Image.fromarray(QUARTERS).convert('CMYK').save(path)
  return QUARTERS


def _sixteen_bit(path):
  Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
  return np.repeat(RAMP[..., None], 3, -1)


def _animated(path):
  frames = [Image.fromarray(QUARTERS[:, ::step].copy()) for step in (1, -1)]
  frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
  return QUARTERS


def _webp(path):
  Image.fromarray(QUARTERS).save(path, lossless=True)
  return QUARTERS


KINDS = {'exif.png': _exif, 'rgba.png': _rgba, 'palette.gif': _palette,
         'transparent.png': _transparent_palette, 'grey.png': _grey, 'cmyk.tif': _cmyk,
         'sixteen.png': _sixteen_bit, 'animated.gif': _animated, 'plain.webp': _webp}


@pytest.mark.parametrize('name', KINDS)
def test_pixels_are_as_shown_and_the_file_is_untouched(name, tmp_path):
  path = tmp_path / name
  expected = KINDS[name](path)
  before = hashlib.sha256(path.read_bytes()).hexdigest()
  image = decode(FileImage(str(path)))
  assert image.dtype == np.uint8
  np.testing.assert_array_equal(image, expected)
  np.testing.assert_array_equal(decode(path.read_bytes()), expected)
  assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_jpeg_cmyk_is_not_inverted(tmp_path):
  Image.fromarray(QUARTERS).convert('CMYK').save(tmp_path / 'a.jpg', quality=100, subsampling=0)
  error = np.abs(decode(FileImage(str(tmp_path / 'a.jpg'))).astype(int) - QUARTERS)
  assert error[2:6, 2:10].max() < 12 and error[10:14, 14:22].max() < 12


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'gif', 'tif', 'bmp'])
def test_truncated_file_is_an_error(suffix, tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  path = tmp_path / f'cut.{suffix}'
  Image.fromarray(noise).save(path)
  data = path.read_bytes()
  path.write_bytes(data[:len(data) * 2 // 3])
  with pytest.raises(DecodeError):
    decode(FileImage(str(path)))


@pytest.mark.parametrize('data', [b'', b'not an image at all', b'\x89PNG\r\n\x1a\n' + b'\0' * 50])
def test_garbage_is_an_error(data):
  with pytest.raises(DecodeError):
    decode(data)


def test_missing_file_and_float_image_are_errors(tmp_path):
  with pytest.raises(DecodeError, match='no such file'):
    decode(FileImage(str(tmp_path / 'absent.png')))
  Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / 'f.tif')
  with pytest.raises(DecodeError, match='floating-point'):
    decode(FileImage(str(tmp_path / 'f.tif')))


def test_arrays_pass_through_or_are_refused():
  assert decode(QUARTERS) is QUARTERS
  for wrong in (QUARTERS.astype(np.float32), QUARTERS[..., 0], QUARTERS[:0]):
    with pytest.raises(DecodeError, match='not uint8'):
      decode(wrong)
