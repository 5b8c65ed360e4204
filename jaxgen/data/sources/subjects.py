"""Photographs by subject: which show the same one, and pairs of them as references and targets."""

import itertools
import re

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import Source

HELD_OUT = 8  # one subject in so many is held out
# The same words for every pair: the reference alone says whom to draw.
TEXT = 'another photograph of the same subject'
_NUMBER = re.compile(r'[-_ ]?\d+$')


class SubjectSource:
  """Every ordered pair of photographs of one subject: a reference, ``TEXT`` and the target.

  Photographs of one subject are those whose names differ by a number at the end. Pairs come by
  turns: the first of every subject, then the second of every subject, and so on.

  Args:
    photos: samples of one target image each; their texts are not used.
    place: ``split`` ``train`` has all but every eighth subject, any other split has that one.

  Raises:
    UserError: no subject with several photographs, or one subject alone.
  """

  def __init__(self, photos: Source, place: Place):
    groups: dict[str, list[Sample]] = {}
    for sample in of_split(photos, place):
      groups.setdefault(subject_of(sample), []).append(sample)
    turns = itertools.zip_longest(*(itertools.permutations(group, 2) for group in groups.values()))
    self._pairs = [pair for turn in turns for pair in turn if pair]
    if not self._pairs:
      raise user_error(place.field, place.path, 'no subject has several photographs; name those of '
                       'one subject alike but for a number at the end, as cat_1.jpg and cat_2.jpg')

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> Sample:
    given, drawn = self._pairs[index]
    return Sample(f'{given.id} to {drawn.id}', (
        Part('reference', image=given.images[0].image), Part('user', text=TEXT),
        Part('target', image=drawn.images[0].image, loss=True)), origin=name_of(drawn))


def of_split(photos: Source, place: Place) -> list[Sample]:
  """The photographs of the subjects of a split: ``train``, or whatever is held out of it.

  Args:
    photos: samples of one image each.
    place: its ``split``; path and field for errors.

  Raises:
    UserError: samples of several images, or photographs of one subject alone.
  """
  samples = [photos[index] for index in range(len(photos))]
  for sample in samples:
    if len(sample.images) != 1:
      raise record_error(sample.origin or sample.id, len(sample.images), 'photos are samples of '
                         'one image each')
  subjects = sorted({subject_of(sample) for sample in samples})
  if len(subjects) < 2:
    raise user_error(place.field, place.path, 'holds photographs of one subject alone, and none '
                     'could be held out; give more, with names that differ by more than a number')
  held = subjects[HELD_OUT - 1::HELD_OUT] or subjects[-1:]
  return [sample for sample in samples
          if (subject_of(sample) in held) == (place.split != 'train')]


def name_of(sample: Sample) -> str:
  """The path of a photograph, or the sample's id where it is no file."""
  image = sample.images[0].image
  return image.path if isinstance(image, FileImage) else sample.id


def subject_of(sample: Sample) -> str:
  """The name of a photograph without folder, suffix and number."""
  return _NUMBER.sub('', re.sub(r'\.\w+$', '', name_of(sample).rpartition('/')[2]))
