"""Drawn squares: split, filtered, grouped and written; for tests of the engine."""

import os
import time

import numpy as np

from jaxgen.curation import readers
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.data.decode import DecodeError
from jaxgen.data.sample import pair


def split(record, times):
  """Several of each; the input ``bad`` cannot be read."""
  if record.id == 'bad':
    raise DecodeError('cut short')
  time.sleep(float(os.environ.get('TOY_SECONDS', '0')))
  for number in range(times):
    yield record.child(str(number), number=number, half=f'half {number % 2}')


def dark(record, most):
  """Drops what its own random numbers make dark."""
  level = int(record.rng().integers(100))
  return record.drop('dark', level=level) if level < most else record.noting(level=level)


def first(records, most):
  """Keeps the first of each group."""
  yield from records[:most]
  yield from (record.drop('too many') for record in records[most:])


def paint(record, side):
  """The sample."""
  time.sleep(float(os.environ.get('TOY_SECONDS', '0')))
  image = record.rng(1).integers(0, 255, (side, side, 3), np.uint8)
  return record.having(sample=pair(record.id, image, f'number {record["number"]}'))


def get_recipe():
  """20 inputs, one of them broken."""
  return Recipe(
      readers.listed('bad', *(f'in{number:02d}' for number in range(19))),
      [Stage(split, times=6), Stage(dark, most=20), Group(first, 'half', most=40),
       Stage(paint, side=16)],
      licence='CC0-1.0', chunk=3, buckets=5)
