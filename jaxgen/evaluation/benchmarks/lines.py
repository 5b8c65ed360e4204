"""The other side of ``plugins``: what our programs share, which answer lines of JSON."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageOps


def serve(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
  """Answers each line of the standard input with a line, until there are none."""
  for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)


def read_image(request: Mapping[str, Any]) -> Image.Image:
  """The ``image`` of a request, in RGB and turned as its EXIF says."""
  return ImageOps.exif_transpose(Image.open(request['image'])).convert('RGB')


def write_mask(request: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
  """Writes the mask of a request.

  Args:
    request: with the file ``mask``.
    mask: bool[H, W], True where the subject is.

  Returns:
    The answer.
  """
  Image.fromarray(mask).save(request['mask'])
  return dict(image=request['image'], mask=request['mask'])
