"""Prompts for text towers: templates, and tokens padded on the right to one length."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tokenizers

from jaxgen.data.tokenizer import open_tokenizer


@dataclasses.dataclass(frozen=True)
class Template:
  """What a prompt is put into before a tower reads it.

  Attributes:
    text: with ``{}`` where the prompt goes.
    crop: leading tokens, the start token included, that the tower reads and the denoiser does
      not get to see.
  """

  text: str
  crop: int


PLAIN = Template('{}', 0)
# What the denoiser was trained on word for word (L134).
HUNYUAN_VIDEO = Template(
    '<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following '
    'aspects: 1. The main content and theme of the video.2. The color, shape, size, texture, '
    'quantity, text, and spatial relationships of the objects.3. Actions, events, behaviors '
    'temporal relationships, physical movement changes of the objects.4. background environment, '
    'light, style and atmosphere.5. camera angles, movements, and transitions used in the video:'
    '<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>', 95)


@dataclasses.dataclass(frozen=True)
class TowerTokenizer:
  """Prompts to the token rows of one tower.

  Attributes:
    backend: adds the tower's start and end tokens, cuts and pads.
    template: around every prompt.
  """

  backend: tokenizers.Tokenizer
  template: Template

  def rows(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Encodes prompts, one to a row.

    Returns:
      ``(tokens i32[n, S], segments i32[n, S])``, 0 = padding; S is ``template.crop`` and the
      length. Of the tower's states and of the segments, the denoiser gets those from ``crop`` on.
    """
    texts = [self.template.text.replace('{}', prompt) for prompt in prompts]
    encoded = self.backend.encode_batch(texts)
    return (np.array([row.ids for row in encoded], np.int32),
            np.array([row.attention_mask for row in encoded], np.int32))


def load_tower_tokenizer(path: str, length: int, template: Template = PLAIN, *,
                         field: str = 'config.data.tower_tokenizer') -> TowerTokenizer:
  """Loads the tokenizer of a tower.

  Args:
    path: folder with ``tokenizer.json``, or hub id.
    length: tokens of a prompt that the denoiser gets; longer prompts are cut.
    template: around every prompt.
    field: config field that holds the path, for errors.

  Raises:
    UserError: nothing there.
  """
  backend, settings = open_tokenizer(path, field)
  pad = settings.get('pad_token') or settings.get('eos_token')
  pad = pad['content'] if isinstance(pad, dict) else pad
  index = None if pad is None else backend.token_to_id(pad)
  backend.enable_truncation(template.crop + length)
  backend.enable_padding(length=template.crop + length, pad_id=index or 0, pad_token=pad or '')
  return TowerTokenizer(backend, template)
