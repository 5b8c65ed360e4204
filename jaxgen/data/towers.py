"""Prompts for text towers: in their dialect, padded on the right to one length."""

import dataclasses

import numpy as np

from jaxgen.core.types import Text
from jaxgen.data.dialects import DIALECTS
from jaxgen.data.sample import Part
from jaxgen.data.templates import tokenize
from jaxgen.data.tokenizer import Tokenizer
from jaxgen.data.tokenizer import load_tokenizer


@dataclasses.dataclass(frozen=True)
class TowerTokens:
  """The prompt of one sample for one tower; T = crop + length tokens.

  Attributes:
    tokens: i32[T].
    mask: bool[T], False for padding that is not read.
    shown: bool[T], True for what the denoiser sees: the states of the tokens behind those that
      the dialect crops, and the learned pads behind them.
  """

  tokens: np.ndarray
  mask: np.ndarray
  shown: np.ndarray


@dataclasses.dataclass(frozen=True)
class TowerTokenizer:
  """Prompts to the tokens of one tower.

  Attributes:
    tokenizer: of the tower; its own start and end tokens stand around every prompt.
    text: dialect and length.
  """

  tokenizer: Tokenizer
  text: Text

  def tokens(self, prompt: str) -> TowerTokens:
    """Encodes one prompt; a longer one loses its end, the tower's end tokens excepted."""
    dialect = DIALECTS[self.text.dialect]
    length = dialect.crop + self.text.length
    start, end = self.tokenizer.ends
    inside = tokenize([Part('user', text=prompt)], dialect, self.tokenizer, (), 0, generate=True)
    kept = inside.tokens[:length - len(start) - len(end)]
    ids = np.full(length, self.tokenizer.pad, np.int32)
    count = len(start) + len(kept) + len(end)
    ids[:count] = [*start, *kept, *end]
    places = np.arange(length)
    read = length if dialect.reads_padding else count
    pads = -(read - dialect.crop) % self.text.multiple
    shown = (places >= dialect.crop) & (places < read + pads)
    return TowerTokens(ids, places < read, shown)


def load_tower_tokenizer(path: str, text: Text, *,
                         field: str = 'config.data.tower_tokenizer') -> TowerTokenizer:
  """Loads the tokenizer of a tower.

  Args:
    path: folder with ``tokenizer.json``, or hub id.
    text: what the tower reads.
    field: config field that holds the path, for errors.

  Raises:
    UserError: nothing there.
  """
  return TowerTokenizer(load_tokenizer(path, field, images=False), text)
