"""Stages that leave out images of a page that show nothing of its subject (L121).

Each rule is a function of the pixels, the code of a QR code, or of what the page says about the
image. What they let pass is judged by a model, see ``dialogues.described``.
"""

import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from jaxgen.curation import slots
from jaxgen.curation.extras import opencv
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import image_size
from jaxgen.data.hashes import image_hash
from jaxgen.data.hashes import images_apart

# Words that mean an advertisement or a sign anywhere in an address, and those that do so only
# where they are all between two dots, slashes or spaces: a page may show how to sew on a button.
_AD_ANYWHERE = re.compile(r'ad-?serv|adsense|doubleclick|advertis|taboola|outbrain', re.IGNORECASE)
_SIGN_ANYWHERE = re.compile(r'favicon|gravatar|sprite', re.IGNORECASE)
_AD = {'ad', 'ads', 'banner', 'banners', 'sponsor', 'sponsors', 'sponsored', 'promo', 'promos',
       'affiliate', 'affiliates'}
_SIGN = {'logo', 'logos', 'icon', 'icons', 'avatar', 'avatars', 'emoji', 'emojis', 'badge',
         'badges', 'button', 'buttons', 'arrow', 'arrows', 'spacer', 'pixel', 'placeholder'}
_QR_SIDE = 640  # pixels of the longer side that codes are looked for in


def worthy_images(record: Record, *, side: int = 128, ratio: float = 3.0,
                  code_share: float = 0.1) -> Iterator[Record | Dropped]:
  """Leaves out icons, advertisements, QR codes and shots of a user interface.

  Args:
    record: with ``markdown``, ``images`` and ``about``.
    side: pixels of the shorter side, at the least.
    ratio: of the longer to the shorter side, at the most; banners have more.
    code_share: part of the image that a QR code fills where it is more than a label.
  """
  gone = []
  for number, (image, about) in enumerate(zip(record['images'], record['about']), 1):
    reason = _reason(image, about, side, ratio, code_share)
    if reason:
      gone.append(number)
      yield record.child(f'image-{number}', images=[image]).drop(reason, about=about[:200])
  yield slots.without(record, gone)


def unlike_neighbours(record: Record, *, least: int = 8) -> Iterator[Record | Dropped]:
  """Of images that follow each other and are nearly the same leaves the largest.

  Args:
    record: with ``markdown`` and ``images``.
    least: bits of 64 in which the perceptual hashes of neighbours differ.
  """
  kept, gone = 0, []
  hashes = [image_hash(image) for image in record['images']]
  for place in range(1, len(hashes)):
    if images_apart(hashes[kept], hashes[place]) >= least:
      kept = place
      continue
    worse = min((place, kept), key=lambda index: np.prod(image_size(record['images'][index])))
    kept = place + kept - worse
    gone.append(worse + 1)
    yield record.child(f'image-{worse + 1}', images=[record['images'][worse]]).drop(
        'like its neighbour')
  yield slots.without(record, gone)


def is_code(pixels: np.ndarray, share: float) -> bool:
  """Whether a QR code that can be read fills a share of uint8[H, W, 3]."""
  cv2 = opencv()
  picture = Image.fromarray(pixels)
  picture.thumbnail((_QR_SIDE, _QR_SIDE))
  # The detector wants light around the code, which a page may have cut off.
  border = np.pad(np.asarray(picture.convert('L')), 16, constant_values=255)
  try:
    text, corners, _ = cv2.QRCodeDetector().detectAndDecode(border)
  except cv2.error:  # from corners that are no square
    return False
  return bool(text) and cv2.contourArea(corners.astype(np.float32)) >= share * np.prod(picture.size)


def is_interface(pixels: np.ndarray, *, flat: float = 0.5, lines: int = 4) -> bool:
  """Whether uint8[H, W, 3] is a shot of a user interface: flat areas with straight edges.

  Args:
    pixels: the image.
    flat: share of pixels that equal their neighbours, at the least. Drawings have as much.
    lines: straight edges over a quarter of a side, at least so many along rows and as many along
      columns. Drawings have fewer.
  """
  grey = np.asarray(Image.fromarray(pixels).convert('L'), np.int16)
  across, down = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=0))
  if min((across == 0).mean(), (down == 0).mean()) < flat:
    return False
  # The frame of an image is no edge of a window.
  inner = [slice(size // 25, size - size // 25) for size in grey.shape]
  return min(_lines(down[tuple(inner)]), _lines(across[tuple(inner)].T)) >= lines


def _lines(steps: np.ndarray) -> int:
  """Rows of int[h, w] that are large along a quarter of their length, but for a tenth that other
  lines cross; neighbours count as one."""
  height, width = steps.shape
  run = max(width // 4, 2)
  # Sums over windows of ``run`` columns, by differences of running sums.
  sums = np.cumsum(np.pad(steps > 6, ((0, 0), (1, 0))), axis=1)
  found = (sums[:, run:] - sums[:, :-run] >= 0.9 * run).any(axis=1)
  return int((found & ~np.concatenate([[False], found[:-1]])).sum())


def _reason(image: bytes, about: str, side: int, ratio: float, code_share: float) -> str:
  """Why an image is left out, '' where it stays; its pixels, which take longest, come last."""
  try:
    shorter, longer = sorted(image_size(image))
    words = set(re.split(r'[/.?=&\s]+', about.lower()))
    if longer > ratio * shorter or words & _AD or _AD_ANYWHERE.search(about):
      return 'advertisement'
    if shorter < side or words & _SIGN or _SIGN_ANYWHERE.search(about):
      return 'icon'
    pixels = decode(image)
  except DecodeError:
    return 'broken image'
  if is_code(pixels, code_share):
    return 'QR code'
  return 'user interface' if is_interface(pixels) else ''
