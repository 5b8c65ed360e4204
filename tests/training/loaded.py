"""The batches that a config's loader makes."""

from jaxgen.data.loader import make_loader
from jaxgen.systems.registry import make_system


def first_batches(config, count=3):
  """The first batches, as the loader hands them out."""
  loader = make_loader(config, make_system(config).layout)
  try:
    return [next(loader) for _ in range(count)]
  finally:
    loader.close()
