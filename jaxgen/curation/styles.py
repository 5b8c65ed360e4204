"""Stages for pictures of one image in the style of another (L016).

iMontage (section 3.2.2): photographs of people, chosen by an aesthetic score, meet illustrations at
random; models of subject and style draw; a judge's score and the identity of the person decide.
"""

from jaxgen.curation.checks import features_of
from jaxgen.curation.models import Model
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record

AESTHETIC = (
    'Give the photograph one score from 0 to 10 for light, composition, sharpness and how well the '
    'person can be seen.\nAnswer with a JSON object: {"aesthetic": 0}')
STYLISE = (
    'Draw the content of the first image in the style of the second one: its strokes, colours and '
    'textures. Keep who and what the first image shows, and the composition. Take nothing that the '
    'second image shows.')
JUDGE = (
    'The third image was drawn to show the content of the first one in the style of the second.\n'
    'Give three scores from 0 to 10. style: strokes, colours and textures are those of the second '
    'image. content: persons, things and composition are those of the first image, and nothing '
    'that the second one shows has come in. quality: no artifacts, no wrong anatomy.\n'
    'Answer with a JSON object: {"style": 0, "content": 0, "quality": 0}')


def content_kept(record: Record, *, model: Model, least: float, most: float) -> Record | Dropped:
  """Drops pictures that have lost the person, or show the subject of the style image.

  Args:
    record: with ``given``, content and style, and ``targets``, one. Both similarities are noted.
    model: of identity, best an embedding of faces: as for ``checks.features_of``.
    least: cosine similarity of target and content.
    most: of target and style image.
  """
  vectors, error = features_of(model, [*record['given'], *record['targets']])
  if error:
    return record.drop('no features', error=error)
  content, style, target = vectors
  identity, leakage = round(float(target @ content), 4), round(float(target @ style), 4)
  facts = dict(identity=identity, leakage=leakage)
  if identity < least:
    return record.drop('identity lost', **facts)
  if leakage > most:
    return record.drop('subject of the style image', **facts)
  # The instruction of all samples is the wording's own.
  return record.having(instruction=['']).noting(**facts)
