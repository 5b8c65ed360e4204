"""Filters by detectors and scorers, which come as ONNX files or kept answers."""

from collections.abc import Mapping

import numpy as np

from jaxgen.core.errors import user_error
from jaxgen.curation.extras import opencv
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record


def single_face(record: Record, *, model: Model, field: str, least: float = 0.5,
                overlap: float = 0.45, where: Mapping[str, str] | None = None) -> Record | Dropped:
  """Keeps images of one person, by a YOLOv8 face detector (L014, L019).

  Args:
    record: with an image file in ``field``.
    model: by ``Use``: an ONNX file as ultralytics exports it, whose first output is
      float32[4 + 1 + ..., N]: centre x and y, width and height of N boxes, their scores, and
      landmarks, which are not looked at.
    field: of the image.
    least: score of a face.
    overlap: intersection over union from which two boxes are one face.
    where: values of fields that a record must have to be looked at; others pass.
  """
  if not fits(record, where):
    return record
  faces = len(boxes(model, record[field], least, overlap))
  noted = record.noting(faces=faces)
  return noted if faces == 1 else noted.drop('several faces' if faces else 'no face', faces=faces)


def boxes(model: Model, image: bytes, least: float, overlap: float) -> np.ndarray:
  """What a YOLOv8 detector finds, each thing once.

  Args:
    model, least, overlap: as for ``single_face``.
    image: file.

  Returns:
    f32[n, 5 + ...], the best first: centre, extent, score and what follows it, in pixels of the
    model's input.

  Raises:
    UserError: the model is of another kind.
  """
  reply, = model.ask([Request(images=(image,))])
  found = next(iter(reply.arrays.values()), None)
  if found is None or found.ndim != 2 or len(found) < 5:
    raise user_error('RECIPE', 'boxes', 'the model gives no boxes, float32[5 or more, N]')
  centre_x, centre_y, width, height, scores = found[:5]
  corners = np.stack([centre_x - width / 2, centre_y - height / 2, width, height], 1)
  kept = opencv().dnn.NMSBoxes(corners.tolist(), scores.tolist(), least, overlap)
  return found[:, np.asarray(kept, int).reshape(-1)].T


def fits(record: Record, where: Mapping[str, str] | None) -> bool:
  """Whether the fields of a record have these values."""
  return all(record.fields.get(name) == value for name, value in (where or {}).items())


def scored(record: Record, *, model: Model, field: str, name: str, least: float = -np.inf,
           most: float = np.inf, output: str = '') -> Record | Dropped:
  """Keeps images whose score is within bounds: aesthetics, safety (L016, L019), watermarks.

  Args:
    record: with an image file in ``field``; the score is noted.
    model: by ``Use``, of a scorer, as LAION's CLIP-based detectors in one ONNX file.
    field: of the image.
    name: of the score, in notes and reasons.
    least, most: bounds.
    output: of the model; '' is its first one. The last of its values counts, which of two classes
      is the one that is looked for.
  """
  reply, = model.ask([Request(images=(record[field],))])
  array = reply.arrays[output] if output else next(iter(reply.arrays.values()))
  value = round(float(np.ravel(array)[-1]), 5)
  noted = record.noting(**{name: value})
  if value < least:
    return noted.drop(f'{name} too low', **{name: value})
  return noted if value <= most else noted.drop(f'{name} too high', **{name: value})
