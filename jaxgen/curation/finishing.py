"""The stage behind all of a recipe: samples whose images are there."""

import dataclasses

from jaxgen.core.errors import user_error
from jaxgen.curation.record import Record
from jaxgen.data.decode import image_file
from jaxgen.data.decode import image_size
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample


def finished(record: Record) -> Record:
  """The record with every image of its ``sample`` as the bytes of a file.

  Raises:
    DecodeError: an image is missing or none; what the engine drops as broken.
    UserError: there is no sample, which is the recipe's mistake.
  """
  sample = record.fields.get('sample')
  if not isinstance(sample, Sample):
    raise user_error('RECIPE', record.id, 'what the last stage makes must have a field "sample", '
                     'a Sample')
  parts = tuple(part if part.image is None else dataclasses.replace(part, image=_bytes(part))
                for part in sample.parts)
  return record.having(sample=dataclasses.replace(sample, id=record.id, parts=parts))


def _bytes(part: Part) -> bytes:
  data = image_file(part.image)
  image_size(data)
  return data
