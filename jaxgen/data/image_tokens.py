"""A cache of image tokens, so that a frozen vision tower need not run to train.

A folder as of ``cache``, whose entries are f[tokens, width] of one image in the dtype in which the
tower computes.
"""

from jaxgen.data.cache import Cache
from jaxgen.data.cache import read_field

FIELD = 'config.data.image_tokens'
COMMAND = '`jaxgen data cache --image-tokens --config=FILE --out=DIR`'
STEM, WIDTH, DTYPE = 'tokens', 'channels of an image token', 'dtype of an image token'


class ImageTokens(Cache):
  """Random access to the image tokens of images, by key.

  Attributes:
    width: D, channels of an image token.
  """

  def __init__(self, folder: str, where: str = FIELD):
    """Reads the keys; see ``Cache``."""
    self.width = stored_width(folder, where)
    super().__init__(folder, where, STEM, read_field(folder, DTYPE, where, COMMAND), COMMAND)


def stored_width(folder: str, where: str = FIELD) -> int:
  """Channels of the image tokens of a cache, as its info says.

  Raises:
    UserError: no cache of image tokens there.
  """
  return read_field(folder, WIDTH, where, COMMAND)
