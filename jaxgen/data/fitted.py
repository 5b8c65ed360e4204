"""Decoded and fitted copies of the images of a sample, each made once."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgen.data import images
from jaxgen.data.decode import Picture
from jaxgen.data.decode import decoded_size
from jaxgen.data.decode import image_size
from jaxgen.data.decode import read_picture
from jaxgen.data.example import Size
from jaxgen.data.sample import Part

# (identity of the image, size or plan, use) -> fitted copy, or entry of a cache.
Fitted = dict[tuple[int, Any, str], np.ndarray]


class Pixels:
  """The pixels of one sample's images. They depend on their own use only, never on other uses of
  the same image, which droppings may take away; uses of one scale share what is decoded.

  Args:
    kept: fitted copies that are known already.
  """

  def __init__(self, kept: Fitted):
    self._kept = kept
    self._decoded: dict[tuple[int, Size], Picture] = {}

  def view(self, part: Part, size: Size, vision) -> np.ndarray:
    """uint8[h, w, 3] as the language model sees the image."""
    return self._once(part, size, 'view', lambda: vision.resize(
        self._decode(part, size), image_size(part.image)))

  def cover(self, part: Part, plan: images.Planned, mode: str) -> np.ndarray:
    """uint8[h, w, 3] as the denoiser gets it."""
    return self._once(part, plan, 'cover', lambda: images.fit_image(
        self._decode(part, plan.size), plan.size, plan.mode or mode, plan.like))

  def entry(self, part: Part, plan, use: str, read: Callable[[], np.ndarray | None]
            ) -> np.ndarray | None:
    """What ``read()`` gives in place of pixels: an entry of a cache."""
    return self._once(part, plan, use, read)

  def _once(self, part: Part, plan, use: str, make) -> np.ndarray | None:
    key = (id(part.image), plan, use)
    if key not in self._kept:
      self._kept[key] = make()
    return self._kept[key]

  def _decode(self, part: Part, size: Size) -> Picture:
    key = (id(part.image), decoded_size(part.image, size))
    if key not in self._decoded:
      self._decoded[key] = read_picture(part.image, size)
    return self._decoded[key]
