"""Limits of numbers that a config, a flag and a job file may all give."""

from jaxgen.core.errors import user_error

# Keys of random numbers have 32 bits: a larger seed would repeat the numbers of a smaller one.
MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 100.0  # far above any that gives images
MAX_SIDE = 2**15  # pixels along one side of an image
MAX_OUTPUTS = 1024  # images of one request
MAX_IMAGES = MAX_OUTPUTS - 1  # of the answer to a dialogue
MAX_TOKENS = 2**16  # of one text in it
MAX_TEMPERATURE = 100.0


def check_range(where: str, value: int | float, least: int | float, most: int | float | None
                ) -> None:
  """Raises a ``UserError`` unless ``least <= value <= most``; None is no upper limit."""
  if most is None:
    if not value >= least:
      raise user_error(where, value, f'use at least {least}')
  elif not least <= value <= most:
    raise user_error(where, value, f'use {least:g} to {most:g}' if isinstance(most, float) else
                     f'use {least} to {most}')
