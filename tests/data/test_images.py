"""Sizes by role, and crops that keep a source and its target on top of each other."""

import dataclasses
import functools
import io

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import images
from jaxgen.data.buckets import CANONICAL_BUCKETS
from jaxgen.data.buckets import bucket_set
from jaxgen.data.decode import read_picture
from jaxgen.data.images import Given
from jaxgen.data.images import Planned
from jaxgen.data.images import Rules
from jaxgen.data.images import fit_image
from jaxgen.data.images import plan_sizes

RULES = Rules(CANONICAL_BUCKETS)
# (row, column) of one dot in each colour, in shares of the image.
DOTS = np.array([(0.3, 0.27), (0.5, 0.5), (0.7, 0.72)])


@functools.cache
def _dots(height, width):
  """A white picture with three soft dots, drawn exactly at any size."""
  rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
  squares = ((rows[:, None, None] - DOTS[:, 0])**2 + (columns[None, :, None] - DOTS[:, 1])**2)
  return np.round(255 - 255 * np.exp(-squares / (2 * 0.03**2))).astype(np.uint8)


def _centres(image):
  """(row, column) in pixels of the dot of each colour; f64[3, 2]."""
  weights = 255.0 - image
  weights[weights < 8] = 0  # ringing and JPEG noise
  total = weights.sum((0, 1))
  rows, columns = np.indices(image.shape[:2])
  return np.stack([(rows[..., None] * weights).sum((0, 1)) / total,
                   (columns[..., None] * weights).sum((0, 1)) / total], axis=1)


def test_targets_go_to_the_bucket_nearest_in_shape():
  plans = plan_sizes([Given('target', (1000, 1000)), Given('target', (400, 700))], RULES, 16)
  assert [plan.size for plan in plans] == [(1024, 1024), (384, 640)]
  rules = Rules(bucket_set('square:64'))
  assert plan_sizes([Given('target', (100, 30))], rules, 16) == [Planned((64, 64), (100, 30))]


def test_a_request_has_the_size_that_is_asked_for():
  given = [Given('source', (300, 500)), Given('target', None, (512, 768))]
  assert plan_sizes(given, RULES, 16) == [Planned((512, 768), (300, 500)), Planned((512, 768))]
  with pytest.raises(UserError, match=r'size of a target = \(500, 768\): .* multiples of 16'):
    plan_sizes([Given('target', None, (500, 768))], RULES, 16)


def test_a_request_without_a_size_follows_its_source_or_the_only_bucket():
  plans = plan_sizes([Given('source', (384, 640)), Given('target', None)], RULES, 16)
  assert [plan.size for plan in plans] == [(384, 640)] * 2
  assert plan_sizes([Given('target', None)], Rules(((64, 64),)), 16) == [Planned((64, 64))]
  with pytest.raises(UserError, match='size of a target: give .* 37 buckets'):
    plan_sizes([Given('target', None)], RULES, 16)


def test_buckets_that_the_models_cannot_take_are_named():
  with pytest.raises(UserError, match=r'buckets = \(500, 500\): .* multiples of 16'):
    plan_sizes([Given('target', (90, 90))], Rules(((500, 500),)), 16)


def test_a_source_follows_its_target():
  size = (448, 576)
  target = Given('target', (333, 428))
  expected = {
      (333, 428): Planned(size, (333, 428)),
      (667, 857): Planned(size, (333, 428)),  # twice as large, rounded: the very same fit
      (428, 333): Planned(size, (428, 333), False),  # another shape: covers the size, and is reported
  }
  for source, plan in expected.items():
    assert plan_sizes([Given('source', source), target], RULES, 16) == [
        plan, Planned(size, (333, 428))]


def test_a_source_without_a_target_has_a_bucket():
  plans = plan_sizes([Given('source', (999, 999))], RULES, 16)
  assert plans == [Planned((1024, 1024), (999, 999))]


@pytest.mark.parametrize('first, second, same', [
    ((333, 500), (667, 1001), True),
    ((667, 1001), (333, 500), True),
    ((512, 512), (512, 512), True),
    ((333, 500), (333, 510), False),
    ((1000, 1500), (1000, 1497), False),
    ((384, 640), (640, 384), False),
])
def test_same_shape(first, second, same):
  assert images.same_shape(first, second) == same


@pytest.mark.parametrize('count, area', [(1, 1024**2), (2, 1024**2), (3, 768**2), (4, 512**2),
                                         (7, 512**2)])
def test_references_share_an_area(count, area):
  given = [Given('reference', (3000, 2000))] * (count - 1) + [Given('context', (900, 4000)),
                                                              Given('target', (512, 512))]
  for plan in plan_sizes(given, RULES, 16)[:-1]:
    assert plan.size[0] * plan.size[1] <= area < (plan.size[0] + 16) * (plan.size[1] + 16)
    assert plan.size[0] % 16 == plan.size[1] % 16 == 0


def test_references_are_never_enlarged_and_may_have_buckets():
  small = [Given('reference', (300, 211)), Given('target', (512, 512))]
  limited = Rules(CANONICAL_BUCKETS, max_side=256)
  bucketed = Rules(CANONICAL_BUCKETS, reference_buckets=bucket_set('square:512'))
  for rules, size in ((RULES, (288, 208)), (limited, (256, 176)), (bucketed, (512, 512))):
    assert plan_sizes(small, rules, 16)[0] == Planned(size, (300, 211))


def test_native_size():
  # What the language model sees is at most 480 pixels long (L113); a token is 28 pixels wide.
  assert images.native_size((1000, 4000), 28, max_side=480) == (112, 476)
  assert images.native_size((4000, 3000), 16, max_side=480) == (480, 352)
  assert images.native_size((480, 360), 24) == (480, 360)
  assert images.native_size((3, 900), 16) == (16, 896)
  for height in range(1000, 3000, 7):  # the limit itself is reached, whatever the rounding
    assert images.native_size((height, 100), 16, max_side=480)[0] == 480


@pytest.mark.parametrize('mode', images.MODES)
@pytest.mark.parametrize('target, source, size', [
    ((333, 500), (667, 1001), (512, 512)),
    ((667, 1001), (333, 500), (512, 512)),
    ((51, 75), (103, 151), (384, 512)),
    ((75, 51), (151, 103), (416, 384)),
])
def test_a_pair_of_odd_sizes_stays_aligned(mode, target, source, size):
  given = [Given('source', source), Given('target', target)]
  plans = plan_sizes(given, Rules((size,)), 16)
  assert plans[0].aligned
  centres = [_centres(fit_image(_dots(*image.size), plan.size, mode, plan.like))
             for image, plan in zip(given, plans, strict=True)]
  assert np.abs(centres[0] - centres[1]).max() < 0.1  # of a pixel; 0.5 is what we promise


def test_cropping_each_image_on_its_own_would_shift_them():
  pair = [fit_image(_dots(*size), (512, 384)) for size in ((51, 75), (103, 151))]
  assert np.abs(_centres(pair[0]) - _centres(pair[1])).max() > 0.3


# EXIF orientation -> from an image as shown to its pixels as stored.
STORED = {1: lambda shown: shown, 2: np.fliplr, 3: lambda shown: shown[::-1, ::-1], 4: np.flipud,
          5: lambda shown: shown.swapaxes(0, 1), 6: np.rot90,
          7: lambda shown: shown[::-1, ::-1].swapaxes(0, 1), 8: lambda shown: np.rot90(shown, -1)}


@pytest.mark.parametrize('mode', images.MODES)
@pytest.mark.parametrize('orientation', STORED)
def test_a_source_decoded_at_reduced_scale_stays_aligned(orientation, mode):
  target, source, size = (201, 301), (1605, 2405), (128, 192)
  exif, file = Image.Exif(), io.BytesIO()
  exif[0x0112] = orientation
  stored = np.ascontiguousarray(STORED[orientation](_dots(*source)))
  Image.fromarray(stored).save(file, 'JPEG', exif=exif, quality=95, subsampling=0)
  reduced = read_picture(file.getvalue(), size)
  assert reduced.pixels.size == (602, 402) and reduced.extent == (401.25, 601.25)
  for like in (target, None):
    fitted = fit_image(reduced, size, mode, like)
    own = fit_image(_dots(*(like or source)), size, mode)
    assert np.abs(_centres(fitted) - _centres(own)).max() < 0.03


def test_square_crop_is_the_middle():
  image = np.zeros((40, 100, 3), np.uint8)
  image[:, 30:70] = 200  # exactly the central square
  out = images.resize_and_crop(image, (20, 20))
  assert out.shape == (20, 20, 3)
  # The filter sees the neighbours of the crop, as it does when the whole image is resized.
  assert (out[:, 2:-2] == 200).all() and (out > 180).all()


def test_crop_covers_the_size_for_any_aspect():
  image = np.full((31, 57, 3), 77, np.uint8)
  for size in ((32, 32), (16, 48), (48, 16)):
    out = fit_image(image, size)
    assert out.shape == (*size, 3) and out.dtype == np.uint8 and (out == 77).all()


def test_same_size_passes_through():
  image = np.zeros((16, 24, 3), np.uint8)
  assert fit_image(image, (16, 24)) is image


def test_equals_resizing_the_short_edge_then_cutting():
  image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
  whole = np.asarray(Image.fromarray(image).resize((64, 32), Image.Resampling.BICUBIC))
  for like in (None, (64, 128)):
    np.testing.assert_array_equal(fit_image(image, (32, 32), 'crop', like), whole[:, 16:-16])


def test_pad_shows_the_whole_image_on_white():
  image = np.full((20, 40, 3), 7, np.uint8)
  out = fit_image(image, (64, 64), 'pad')
  assert (out[16:48] == 7).all() and (out[:16] == 255).all() and (out[48:] == 255).all()
  assert (fit_image(image, (40, 80), 'pad') == 7).all()
  assert fit_image(np.full((1, 300, 3), 7, np.uint8), (16, 16), 'pad').shape == (16, 16, 3)


def test_given_images_of_an_area_have_sizes_of_their_own():
  """Sources too: none follows the target, and each is stretched, up or down."""
  rules = dataclasses.replace(RULES, reference_pixels=(1024**2, 512**2), area=True)
  target, source = Given('target', (428, 333)), Given('source', (300, 600))
  assert plan_sizes([target, source], rules, 16) == [
      plan_sizes([target], RULES, 16)[0],
      Planned((736, 1440), (300, 600), mode='stretch')]
  sizes = [plan.size for plan in plan_sizes([source, Given('reference', (900, 900)), target],
                                            rules, 16)]
  assert sizes[:2] == [(352, 736), (512, 512)]
