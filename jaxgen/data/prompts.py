"""Prompt templates: from captions and images to the tokens that the language model reads."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Layout
from jaxgen.core.types import Prompt
from jaxgen.data.packing import Example
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptTokens:
  """The tokens of one sample's prompt.

  Attributes:
    tokens: i32[n].
    image_index: i32[n], which image token of the sample stands here, -1 for text.
    loss_mask: f32[n], 1 where the token is to be predicted.
  """

  tokens: np.ndarray
  image_index: np.ndarray
  loss_mask: np.ndarray


class PromptWriter:
  """Writes the prompts of a config; the ones that never change are tokenised once.

  Args:
    tokenizer: of the language model.
    image_tokens: prompt tokens that one image occupies.
    data: ``config.data``.
  """

  def __init__(self, tokenizer: Tokenizer, image_tokens: int, data: ConfigDict):
    self._tokenizer, self._limit = tokenizer, data.prompt_tokens
    self._pair_prompt = data.pair_prompt
    image = [tokenizer.image_start, *[tokenizer.image] * image_tokens, tokenizer.image_end]
    self._reconstruction = tokenizer.encode(data.reconstruction_prompt) + image
    self._describe = image + tokenizer.encode(data.caption_prompt)
    self._empty = self._prompt(tokenizer.encode(data.empty_prompt), 0, 'config.data.empty_prompt')

  def reconstruction(self, where: str) -> PromptTokens:
    """The reconstruction prompt, then the image to be generated (L087)."""
    return self._prompt(self._reconstruction, 0, where)

  def pair(self, caption: str, where: str) -> PromptTokens:
    """The caption in ``pair_prompt``."""
    text = self._pair_prompt.replace('{caption}', caption)
    return self._prompt(self._text(text, where), 0, where)

  def caption(self, caption: str, where: str) -> PromptTokens:
    """An image, the question, and the caption as the answer, which carries the loss."""
    # The space makes the words the same tokens as after the colon of ``pair_prompt``.
    answer = self._text(' ' + caption, where) + [self._tokenizer.end]
    return self._prompt(self._describe + answer, len(answer), where)

  def empty(self) -> PromptTokens:
    """What stands for no caption at all, in training and in guidance."""
    return self._empty

  def _text(self, text: str, where: str) -> list[int]:
    tokens = self._tokenizer.encode(text)
    if self._tokenizer.image in tokens:
      raise user_error(where, text, 'the text spells the token that stands for images; reword it')
    return tokens

  def _prompt(self, tokens: list[int], predicted: int, where: str) -> PromptTokens:
    if len(tokens) > self._limit:
      raise user_error(where, None, f'the prompt has {len(tokens)} tokens, more than '
                       f'config.data.prompt_tokens = {self._limit}; shorten it or raise the limit')
    array = np.asarray(tokens, np.int32)
    is_image = array == self._tokenizer.image
    loss_mask = np.zeros(len(tokens), np.float32)
    loss_mask[len(tokens) - predicted:] = 1
    return PromptTokens(array, np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32),
                        loss_mask)


def encode_prompts(captions: Sequence[str | None], tokenizer: Tokenizer, layout: Layout,
                   data: ConfigDict) -> Prompt:
  """The prompts of images to be generated, one to a row, as the loader would write them.

  Args:
    captions: what to draw, put into ``data.pair_prompt``; None is the empty prompt, for guidance.
    tokenizer: of the language model.
    layout: sizes of the models.
    data: ``config.data``.

  Returns:
    A ``Prompt`` of numpy arrays with B = len(captions), S and P as in training.

  Raises:
    UserError: a prompt longer than ``data.prompt_tokens``.
  """
  writer = PromptWriter(tokenizer, layout.vision_tokens, data)
  rows = []
  for caption in captions:
    where = f'prompt {caption!r}'
    prompt = writer.empty() if caption is None else writer.pair(caption, where)
    rows.append([Example(id='', source=0, tokens=prompt.tokens, image_index=prompt.image_index,
                         loss_mask=prompt.loss_mask)])
  return pack(rows, RowShape.of(data, layout), tokenizer.pad).batch.prompt
