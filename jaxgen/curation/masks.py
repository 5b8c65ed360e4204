"""Stages that take objects out of images: wider masks, inpainting, the pair of images (L072, L073).

A mask that has the shape of its object tells an inpainting model to draw such an object again.
"""

import numpy as np
from PIL import Image

from jaxgen.core.errors import record_error
from jaxgen.core.image_files import to_png
from jaxgen.curation.extras import opencv
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode

INPAINT = 'Fill the white part of the mask with the background; leave no {object} there.'
REMOVE = ('Remove the {object} from the image.', 'Take away the {object}.',
          'Erase the {object} and fill in the background.')
SHAPES = ('grown', 'box', 'hull', 'blobs')


def augmented_mask(mask: np.ndarray, shape: str, rng: np.random.Generator) -> np.ndarray:
  """A wider mask of another shape, which covers the given one.

  Args:
    mask: bool[H, W], somewhere true.
    shape: one of ``SHAPES``: grown on all sides, the box around, the convex hull, or with random
      discs along the edge. All are then grown a little.
    rng: of margins and discs.

  Returns:
    bool[H, W].
  """
  rows, columns = np.nonzero(mask)
  top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
  extent = max(bottom - top, right - left)
  cv2 = opencv()
  wider = mask.astype(np.uint8)
  if shape == 'box':
    wider[top:bottom, left:right] = 1
  elif shape == 'hull':
    cv2.fillConvexPoly(wider, cv2.convexHull(np.stack([columns, rows], -1).astype(np.int32)), 1)
  elif shape == 'blobs':
    for place in rng.integers(len(rows), size=12):
      cv2.circle(wider, (int(columns[place]), int(rows[place])),
                 round(extent * rng.uniform(0.08, 0.25)), 1, -1)
  share = rng.uniform(0.1, 0.25) if shape == 'grown' else rng.uniform(0.03, 0.08)
  side = 2 * max(round(extent * share), 1) + 1
  return cv2.dilate(wider, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0


def wider_mask(record: Record, *, most: float = 0.6, seed: int = 0) -> Record | Dropped:
  """Augments the mask of a record by a shape that its id draws.

  Args:
    record: with ``image`` and ``mask``, an image that is light where the object is.
    most: share of the image that the mask may cover.
    seed: of the draw.
  """
  mask = decode(record['mask'])[..., 0] > 127
  if mask.shape != decode(record['image']).shape[:2]:
    raise record_error(record.id, list(mask.shape), 'the mask must have the size of its image')
  if not mask.any():
    return record.drop('empty mask')
  rng = record.rng(seed)
  shape = SHAPES[rng.integers(len(SHAPES))]
  wider = augmented_mask(mask, shape, rng)
  if wider.mean() > most:
    return record.drop('large mask', share=round(float(wider.mean()), 3))
  return record.having(mask=to_png(np.repeat(wider[..., None] * np.uint8(255), 3, -1))).noting(
      mask=shape)


def removed(record: Record, *, model: Model) -> Record | Dropped:
  """Has the object inpainted; outside of the mask the pixels stay those of the image.

  Args:
    record: with ``image``, ``mask`` and ``object``, its name. It gets ``source``, ``target`` and
      ``instruction``, by templates.
    model: draws, given image and mask.
  """
  reply, = model.ask([Request(INPAINT.format(object=record['object']),
                              (record['image'], record['mask']))])
  if reply.error or not reply.images:
    return record.drop('not inpainted', error=reply.error)
  image, mask = decode(record['image']), decode(record['mask']) > 127
  height, width = image.shape[:2]
  drawn = np.asarray(Image.fromarray(decode(reply.images[0])).resize((width, height)))
  words = [text.format(object=record['object']) for text in REMOVE]
  return record.without('image', 'mask').having(
      source=record['image'], target=to_png(np.where(mask, drawn, image)), instruction=words)
