"""Qwen2.5-VL: vision tower and language model with three-axis positions in one.

Equals transformers' Qwen2_5_VLForConditionalGeneration on images
(tests/models/test_qwen2_5_vl.py), except that rows may pack several samples and that image
tokens are placed by ``image_index``.
"""

import dataclasses
from typing import Any

import jax

from jaxgen.core.errors import user_error
from jaxgen.core.types import Prompt
from jaxgen.core.types import Vision
from jaxgen.models.encoders.base import MultimodalLM
from jaxgen.models.encoders.causal_lm import CausalLM
from jaxgen.models.encoders.causal_lm import CausalLMConfig
from jaxgen.models.encoders.qwen_vision import QwenVision
from jaxgen.models.encoders.qwen_vision import QwenVisionConfig

# Qwen2.5-VL-7B (L051, L108).
QWEN2_5_VL_7B: dict[str, Any] = dict(
    family='qwen2_5_vl',
    vision=dict(width=1280, layers=32, heads=16, mlp=3420, remat='full'),
    text=dict(vocab=152064, width=3584, layers=28, heads=28, kv_heads=4, mlp=18944,
              rope_sections=(16, 24, 24), remat='full'),
)


@dataclasses.dataclass(frozen=True)
class Qwen2_5VLConfig:
  """Sizes of the model; the token ids are kept for PyTorch, as images are placed by index.

  Attributes:
    vision: the tower.
    text: the language model.
    image_token_id: placeholder of an image token in the vocabulary.
    video_token_id: placeholder of a video token.
    vision_start_id: stands before an image.
    vision_end_id: stands behind it.
  """

  vision: QwenVisionConfig
  text: CausalLMConfig
  image_token_id: int = 151655
  video_token_id: int = 151656
  vision_start_id: int = 151652
  vision_end_id: int = 151653

  def __post_init__(self):
    if len(self.text.rope_sections) != 3:
      raise user_error('config.model.mllm.text.rope_sections', self.text.rope_sections,
                       'must have three numbers, for (t, h, w)')


class Qwen2_5VL(MultimodalLM):
  """The whole model; reads images of any size by ``patch_positions`` and ``patch_images``."""

  config: Qwen2_5VLConfig

  def setup(self):
    c = self.config
    self.vision = QwenVision(c.vision, c.text.width, self.dtype)
    self.text = CausalLM(c.text, self.dtype)

  @property
  def sees(self) -> Vision:
    """Images of any size."""
    return Vision('native', self.config.vision.patch_size, self.config.vision.merge)

  def encode_images(self, prompt: Prompt) -> jax.Array:
    """f[B, P / merge^2, D] of the images of every row; see ``QwenVision``."""
    return self.vision(prompt.patches, prompt.patch_positions, prompt.patch_images)
