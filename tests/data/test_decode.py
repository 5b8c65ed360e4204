"""Every odd kind of image file decodes to the pixels it shows, and is left as it was."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from PIL import PngImagePlugin

from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import Picture
from jaxgen.data.decode import decode
from jaxgen.data.decode import image_size
from jaxgen.data.decode import read_picture
from jaxgen.data.images import resize_and_crop
from jaxgen.data.sample import FileImage
from jaxgen.data.sources import open_source

# Red, green, blue and white quarters, 16 x 24, so that turns and flips show.
QUARTERS = np.zeros((16, 24, 3), np.uint8)
QUARTERS[:8, :12] = (255, 0, 0)
QUARTERS[:8, 12:] = (0, 255, 0)
QUARTERS[8:, :12] = (0, 0, 255)
QUARTERS[8:, 12:] = (255, 255, 255)
RAMP = np.tile(np.arange(24, dtype=np.uint8) * 10, (16, 1))


@pytest.fixture(scope='module')
def photo():
  """uint8[384, 300, 3] with the falling spectrum of a photograph; drawn, not loaded."""
  rng = np.random.default_rng(0)
  rows, columns = np.fft.fftfreq(384)[:, None], np.fft.fftfreq(300)[None]
  frequency = np.hypot(rows, columns)
  frequency[0, 0] = 1
  waves = np.fft.fft2(rng.normal(size=(3, 384, 300))) / frequency**1.5
  waves[:, 0, 0] = 0
  image = np.fft.ifft2(waves).real  # [3, H, W]
  image = image / image.std() * 50 + 128
  return np.clip(image.transpose(1, 2, 0), 0, 255).astype(np.uint8)


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


@pytest.mark.parametrize('data', [b'', b'not an image at all', b'\x89PNG\r\n\x1a\n' + b'\0' * 50,
                                  b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'])
def test_garbage_is_an_error(data, tmp_path):
  (tmp_path / 'a.png').write_bytes(data)
  reasons = []
  for image in (data, FileImage(str(tmp_path / 'a.png'))):
    for read in (decode, image_size):
      with pytest.raises(DecodeError) as caught:
        read(image)
      reasons.append(str(caught.value))
  # The same each time, so that reports can be compared: without addresses in memory.
  assert len(set(reasons)) == 1 and '0x' not in reasons[0]


def test_large_photographs_and_long_texts_are_read(tmp_path):
  """Pillow's own limits are 179 million pixels, and 1 MiB for one text of a PNG file."""
  path = tmp_path / 'wide.png'
  Image.new('1', (20_000, 9_000)).save(path)  # a few KB, 180 million pixels
  assert image_size(FileImage(str(path))) == (9_000, 20_000)
  Image.open(path).verify()
  info = PngImagePlugin.PngInfo()
  info.add_text('workflow', 'node ' * 1_000_000, zip=True)
  Image.fromarray(QUARTERS).save(tmp_path / 'text.png', pnginfo=info)
  np.testing.assert_array_equal(decode(FileImage(str(tmp_path / 'text.png'))), QUARTERS)
  Image.new('1', (20_001, 20_000)).save(path)
  for read in (decode, image_size):
    with pytest.raises(DecodeError, match='20001 x 20000 pixels are too many'):
      read(FileImage(str(path)))


@pytest.mark.parametrize('form, suffix', [('AVIF', 'avif'), ('JPEG', 'jfif')])
def test_formats_of_phones_and_browsers(form, suffix, tmp_path):
  path = tmp_path / f'a.{suffix}'
  Image.fromarray(QUARTERS).save(path, form, quality=100)
  found = open_source('folder', str(tmp_path))
  error = np.abs(decode(found[0].images[0].image).astype(int) - QUARTERS)
  assert len(found) == 1 and error[2:6, 2:10].max() < 12


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


@pytest.mark.parametrize('name', KINDS)
def test_size_from_the_header(name, tmp_path):
  path = tmp_path / name
  shown = KINDS[name](path).shape[:2]
  assert image_size(FileImage(str(path))) == image_size(path.read_bytes()) == shown == (16, 24)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_size_and_reduced_scale_follow_the_orientation(orientation, photo):
  exif, file = Image.Exif(), io.BytesIO()
  exif[0x0112] = orientation
  Image.fromarray(photo).save(file, 'JPEG', exif=exif)
  full = decode(file.getvalue())
  assert image_size(file.getvalue()) == full.shape[:2]
  height, width = full.shape[:2]
  # Just below half and just above a quarter of one side, so that swapped sides would show.
  reduced = read_picture(file.getvalue(), (height // 4, width // 4))
  assert reduced.pixels.size == (-(-width // 2), -(-height // 2))
  shrunk = [Picture.of(image).resize((height // 4, width // 4)).astype(int)
            for image in (full, reduced)]
  assert np.abs(shrunk[0] - shrunk[1]).mean() < 1


def test_size_reads_no_pixels(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)
  for suffix in ('jpg', 'png', 'webp'):
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    if suffix != 'webp':  # its decoder opens whole files only
      assert image_size(FileImage(str(path))) == (64, 48)
    with pytest.raises(DecodeError):
      decode(FileImage(str(path)))


def test_size_of_arrays_and_of_what_is_no_image(tmp_path):
  assert image_size(QUARTERS) == (16, 24)
  for wrong in (b'', b'not an image at all', QUARTERS[..., 0], FileImage(str(tmp_path / 'no.png'))):
    with pytest.raises(DecodeError):
      image_size(wrong)


@pytest.mark.parametrize('size', [(384, 384), (237, 384), (383, 255)])
@pytest.mark.parametrize('scale', [2, 4, 8])
def test_reduced_scale_costs_about_one_level(scale, size, photo):
  file = io.BytesIO()
  Image.fromarray(resize_and_crop(photo, size)).save(file, 'JPEG', quality=95)
  full = decode(file.getvalue())
  wanted = (size[0] // scale // 2, size[1] // scale // 2)
  reduced = read_picture(file.getvalue(), wanted)
  assert reduced.pixels.size == (-(-size[1] // scale), -(-size[0] // scale))
  assert reduced.extent == (size[0] / scale, size[1] / scale)
  error = resize_and_crop(full, wanted).astype(int) - resize_and_crop(reduced, wanted)
  assert np.abs(error).mean() < 1
  # One pixel more than that, and the next larger scale is taken.
  larger = read_picture(file.getvalue(), (size[0] // scale // 2 + 1, 1))
  assert larger.pixels.height >= 2 * (size[0] // scale // 2 + 1)


def test_a_late_orientation_is_applied(tmp_path):
  path = tmp_path / 'late.png'
  _exif(path)
  data = path.read_bytes()
  start = data.index(b'eXIf') - 4
  end = start + 12 + int.from_bytes(data[start:start + 4], 'big')
  last = data.index(b'IEND') - 4
  late = data[:start] + data[end:last] + data[start:end] + data[last:]
  for at_least in (None, (4, 4)):
    np.testing.assert_array_equal(read_picture(late, at_least).pixels, QUARTERS)


def test_only_jpegs_that_shrink_are_decoded_at_reduced_scale(photo):
  for kind in ('PNG', 'JPEG'):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, kind)
    full = decode(file.getvalue())
    for at_least in (None, (400, 400), (200, 200), *([(8, 8)] if kind == 'PNG' else [])):
      np.testing.assert_array_equal(read_picture(file.getvalue(), at_least).pixels, full)


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_other_colours_at_reduced_scale(mode, photo):
  file = io.BytesIO()
  Image.fromarray(photo).resize((161, 83)).convert(mode).save(file, 'JPEG', quality=95)
  full, reduced = decode(file.getvalue()), read_picture(file.getvalue(), (20, 40))
  assert reduced.pixels.size == (81, 42)
  whole, part = (resize_and_crop(image, (20, 40)) for image in (full, reduced))
  assert np.abs(whole.astype(int) - part).mean() < 1
