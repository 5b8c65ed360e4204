"""Hashes by which an image or a text is found again in a large set, though it was saved anew."""

import hashlib
import re
import unicodedata

import numpy as np
import scipy.fft
from PIL import Image

from jaxgen.data.decode import read_picture
from jaxgen.data.sample import FileImage

SIDE, LOW = 32, 8  # pixels that are transformed, frequencies of each axis that are kept
FLAT = 2.0  # standard deviation in grey levels below which an image has no hash
NEAR = 4  # bits by which hashes of one image may differ


def image_hash(image: bytes | np.ndarray | FileImage) -> np.uint64 | None:
  """The perceptual hash of an image: the signs of its lowest frequencies (pHash).

  Another size, format or quality leaves it as it is but for a few bits; a crop or a mirror image
  does not.

  Args:
    image: as for ``decode``; a large JPEG is decoded at reduced scale.

  Returns:
    64 bits; None for an image of one colour, whose bits are noise.

  Raises:
    DecodeError: it cannot be read.
  """
  picture = read_picture(image, (SIDE, SIDE))
  pixels = picture.pixels
  pixels = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
  grey = np.asarray(pixels.convert('L').resize(
      (SIDE, SIDE), Image.Resampling.LANCZOS, box=picture.box), np.float64)
  if grey.std() < FLAT:
    return None
  low = scipy.fft.dctn(grey)[:LOW, :LOW]
  return np.packbits(low > np.median(low)).view('>u8')[0].astype(np.uint64)


def bits_apart(first: np.ndarray | np.uint64, second: np.ndarray | np.uint64) -> np.ndarray:
  """In how many of 64 bits hashes differ; u8[...] of two arrays u64[...] that broadcast."""
  return np.bitwise_count(np.bitwise_xor(first, second))


def images_apart(first: np.uint64 | None, second: np.uint64 | None) -> int:
  """In how many of 64 bits two of ``image_hash`` differ; images of one colour are all alike."""
  if first is None or second is None:
    return 0 if first is second else 64
  return int(bits_apart(first, second))


def text_hash(text: str) -> bytes:
  """16 bytes of a text, whatever its case, spaces and punctuation."""
  plain = unicodedata.normalize('NFKC', text).casefold()
  plain = ' '.join(re.findall(r'\w+', plain)) or plain.strip()
  return hashlib.blake2b(plain.encode(), digest_size=16).digest()
