"""Checks of what models have drawn: identity by features, and scores of a judge that sees it."""

import functools
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from jaxgen.curation import answers
from jaxgen.curation.clusters import unit
from jaxgen.curation.filters import fits
from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record


def features_of(model: Model, images: Sequence[bytes]) -> tuple[np.ndarray, str]:
  """f32[n, E] of length 1, one for each image, or why there are none.

  Args:
    model: a tower, or an embedding of faces: its first output is taken.
    images: files.
  """
  replies = model.ask([Request(images=(answers.shown(image),)) for image in images])
  for reply in replies:
    if reply.error:
      return np.zeros((0, 0), np.float32), reply.error
  return unit(np.stack([next(iter(reply.arrays.values())).ravel() for reply in replies])), ''


def alike(record: Record, *, model: Model, least: float, roles: Sequence[str] = ()
          ) -> Record | Dropped:
  """Keeps records whose every target shows every reference, by the cosine of their features.

  Args:
    record: with ``given``, ``roles`` and ``targets``.
    model: as for ``features_of``.
    least: of these similarities; the smallest one is noted as ``identity``.
    roles: of references that are compared; () compares all.
  """
  given = [image for image, role in zip(record['given'], record['roles'], strict=True)
           if not roles or role in roles]
  vectors, error = features_of(model, [*given, *record['targets']])
  if error:
    return record.drop('no features', error=error)
  similarities = vectors[:len(given)] @ vectors[len(given):].T  # [references, targets]
  identity = round(float(similarities.min(initial=1.0)), 4)
  return record.noting(identity=identity) if identity >= least else record.drop(
      'unlike its references', identity=identity)


def judged(record: Record, *, model: Model, prompt: str, least: Mapping[str, float],
           images: Sequence[str] = ('given', 'targets'), where: Mapping[str, str] | None = None
           ) -> Record | Dropped:
  """Keeps records that a judge gives good scores, which are noted.

  Args:
    record: with fields of images, and ``instruction`` where the prompt has a place for it.
    model: sees images.
    prompt: what it is asked; ``{text}`` stands for the instruction. It must answer with a JSON
      object of scores of 0 to 10 by the names of ``least``.
    least: name -> score.
    images: fields that it is shown, each a file or a list of files.
    where: values of fields that a record must have to be judged; others pass.
  """
  if not fits(record, where):
    return record
  files = [file for name in images for file in (
      [record[name]] if isinstance(record[name], bytes) else record[name])]
  said = record.fields.get('instruction', [''])[0]
  found = answers.answer(
      model, Request(prompt.replace('{text}', said), tuple(map(answers.shown, files))),
      functools.partial(answers.scores, names=tuple(least)))
  if found.error:
    return record.drop('no scores', error=found.error)
  for name, score in found.value.items():
    if score < least[name]:
      return record.drop(f'{name} too low', **found.value)
  return record.noting(**found.value)
