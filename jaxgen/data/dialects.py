"""Dialects: how each language model and each text tower expects its prompts to be written."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How the parts of a sample are written for one model.

  Special tokens are spelled out in these strings and become single ids; the same spelling in a
  text of the sample stays text.

  Attributes:
    header: opens a turn, with ``{role}``; '' where texts and images follow one another without
      turns.
    footer: closes a turn.
    system: system turn of samples that have none; None = no system turn.
    image_system: the same where the prompt contains images; None = as without images.
    image: an image within a turn, with ``{image}`` and, where images are numbered, ``{number}``.
    opens: the assistant's turn is opened where the model is to go on.
    begins: a prompt that asks for an image ends with the token that begins one (<BOV>, A20).
    crop: leading tokens, the start token of a tower included, that the denoiser is not shown.
    image_crop: the same where ``image_system`` is written.
    reads_padding: of text towers: padding is read, and shown, like words (FLUX's T5).
  """

  header: str = ''
  footer: str = ''
  system: str | None = None
  image_system: str | None = None
  image: str = '{image}'
  opens: bool = True
  begins: bool = False
  crop: int = 0
  image_crop: int = 0
  reads_padding: bool = False

  def preamble(self, sees: bool) -> tuple[str | None, int]:
    """System text and crop of a prompt with images (``sees``) or without."""
    if sees and self.image_system is not None:
      return self.image_system, self.image_crop
    return self.system, self.crop


_CHAT = {'header': '<|im_start|>{role}\n', 'footer': '<|im_end|>\n'}
_BARE = Dialect()
# What the released denoisers were trained on, word for word (tests/data/test_templates.py).
_QWEN_IMAGE = ('Describe the image by detailing the color, shape, size, texture, quantity, text, '
               'spatial relationships of the objects and background:')
_QWEN_IMAGE_EDIT = (
    'Describe the key features of the input image (color, shape, size, texture, objects, '
    "background), then explain how the user's text instruction should alter or modify the image. "
    "Generate a new image that meets the user's requirements while maintaining consistency with "
    'the original input where appropriate.')
_HUNYUAN_VIDEO = (
    'Describe the video by detailing the following aspects: 1. The main content and theme of the '
    'video.2. The color, shape, size, texture, quantity, text, and spatial relationships of the '
    'objects.3. Actions, events, behaviors temporal relationships, physical movement changes of '
    'the objects.4. background environment, light, style and atmosphere.5. camera angles, '
    'movements, and transitions used in the video:')

DIALECTS: dict[str, Dialect] = {
    # Texts and images as they come; what the assistant says ends with the end token (L087).
    'plain': _BARE,
    # Of text towers; their start and end tokens are the tokenizer's own (L134).
    'llama': _BARE, 'clip': _BARE, 't5': Dialect(reads_padding=True),
    'internvl': Dialect(**_CHAT, image='{image}\n', begins=True),
    'qwen_chat': Dialect(**_CHAT, system='You are a helpful assistant.', begins=True),
    # Z-Image's text tower (L142).
    'qwen3_chat': Dialect(**_CHAT),
    # Qwen-Image, and Qwen-Image-Edit where there is an image to edit.
    'qwen_image': Dialect(**_CHAT, system=_QWEN_IMAGE, crop=34, image_system=_QWEN_IMAGE_EDIT,
                          image_crop=64),
    # Qwen-Image-Edit from 2509 on, which takes several images.
    'qwen_image_plus': Dialect(**_CHAT, image='Picture {number}: {image}',
                               system=_QWEN_IMAGE_EDIT, crop=64),
    'hunyuan_video': Dialect('<|start_header_id|>{role}<|end_header_id|>\n\n', '<|eot_id|>',
                             system=_HUNYUAN_VIDEO, opens=False, crop=95),
}
