"""Pipeline classes of diffusers: the system that draws as each does, its parts and its settings.

A further one adds a ``Kind`` to ``KINDS``; its system must draw as the pipeline does
(tests/systems/test_flux_pipelines.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import check_fixed

Sections = Mapping[str, Mapping[str, Any]]
Settings = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Kind:
  """One pipeline class.

  Attributes:
    name: of the class, in model_index.json.
    system: a key of ``systems.registry.SYSTEMS``.
    models: group of parameters -> component that holds them.
    tokenizers: group that reads a prompt -> component with its tokenizer.
    settings: ``(sections by group, scheduler_config.json) -> fields of the config``, named as
      'data.scheme', that are not the defaults.
    variants: word in the path of a folder -> fields that it changes: what two releases of one class
      differ in without a file that says so.
  """

  name: str
  system: str
  models: Mapping[str, str]
  tokenizers: Mapping[str, str]
  settings: Callable[[Sections, Mapping[str, Any]], Settings]
  variants: Mapping[str, Settings] = dataclasses.field(default_factory=dict)


# What a ``FlowMatchEulerDiscreteScheduler`` may say.
_SCHEDULER = (
    Fixed('_class_name', 'FlowMatchEulerDiscreteScheduler'),
    Fixed('time_shift_type', 'exponential'),
    *(Fixed(name, False) for name in ('use_karras_sigmas', 'use_exponential_sigmas',
                                      'use_beta_sigmas', 'invert_sigmas', 'stochastic_sampling')))


def levels(scheduler: Mapping[str, Any]) -> Settings:
  """The noise levels of a scheduler as fields of ``config.sampling``.

  Raises:
    UserError: a scheduler of another class, or with levels of another kind.
  """
  for field in _SCHEDULER:
    check_fixed(field, scheduler, 'scheduler_config.json')
  shift = {'sampling.timestep_shift': float(scheduler.get('shift', 1.0))}
  if scheduler.get('use_dynamic_shifting'):
    shift = {'sampling.size_shift': (
        scheduler.get('base_image_seq_len', 256), scheduler.get('base_shift', 0.5),
        scheduler.get('max_image_seq_len', 4096), scheduler.get('max_shift', 1.15))}
  return shift | {'sampling.last_level': float(scheduler.get('shift_terminal') or 0.0)}


def _flux(sections: Sections, scheduler: Mapping[str, Any]) -> Settings:
  """FLUX.1-dev, or, where the denoiser takes no guidance, schnell."""
  distilled = sections['denoiser']['guidance_embed']
  factor = 2 ** (len(sections['autoencoder']['block_channels']) - 1)
  return {
      'data.scheme': 'flux', 'data.pair_prompt': '{caption}', 'data.edit_prompt': '{caption}',
      'data.empty_prompt': '', 'data.image_size': 128 * factor,
      'data.prompt_tokens': 512 if distilled else 256,
      'sampling.steps': 28 if distilled else 4, 'sampling.guidance': 3.5 if distilled else 1.0,
      **levels(scheduler)}


def _flux_kontext(sections: Sections, scheduler: Mapping[str, Any]) -> Settings:
  """Images are brought to the nearest of Kontext's sizes, whatever their shape becomes."""
  return _flux(sections, scheduler) | {
      'data.clean_roles': ('source', 'reference', 'context'), 'data.buckets': 'kontext',
      'data.fit': 'stretch'}


WORDS = 512  # tokens of a prompt that Qwen-Image's and Z-Image's denoisers are told
CROPPED = 64  # tokens of Qwen-Image's longest template that they are not
AREA = 1024**2  # pixels of Qwen-Image-Edit's images
IMAGES = 3  # of a prompt for the later of these models


def image_tokens(area: int) -> int:
  """Most tokens of Qwen2.5-VL for an image that was brought to an area in pixels: squares of 28
  pixels, of which rounding both sides may add an eighth."""
  return round(1.125 * area / 28**2)


def _qwen_image(sections: Sections, scheduler: Mapping[str, Any]) -> Settings:
  """Qwen-Image: true guidance away from a blank, to the length that a velocity has without it."""
  return {
      'data.scheme': 'qwen_image', 'data.dialect': 'qwen_image',
      'data.pair_prompt': '{caption}', 'data.edit_prompt': '{caption}', 'data.empty_prompt': ' ',
      'data.image_size': 128 * 2 ** len(sections['autoencoder']['temporal']),
      'data.prompt_tokens': CROPPED + WORDS, 'data.prompt_cut': WORDS,
      'sampling.steps': 50, 'sampling.guidance': 4.0, 'sampling.renormalize': 'token',
      **levels(scheduler)}


def _qwen_image_edit(sections: Sections, scheduler: Mapping[str, Any], *, seen: int = AREA,
                     images: int = 1) -> Settings:
  """Qwen-Image-Edit; ``seen``: pixels of each image as the language model sees it."""
  return _qwen_image(sections, scheduler) | {
      'data.references': 'area', 'data.reference_pixels': (AREA,), 'data.vision_area': seen,
      'data.vision_pixels': (56 * 56, 128 * 128 * 28 * 28),  # of preprocessor_config.json
      'data.clean_roles': ('source', 'reference', 'context'), 'data.max_references': images,
      'data.patches': 4 * images * image_tokens(seen),
      # Beside an image stand the tokens that begin and end it, and in later models its number.
      'data.prompt_tokens': CROPPED + WORDS + images * (image_tokens(seen) + 8)}


def _qwen_image_edit_plus(sections: Sections, scheduler: Mapping[str, Any]) -> Settings:
  """Qwen-Image-Edit from 2509 on: several images, numbered and seen at a smaller size."""
  return _qwen_image_edit(sections, scheduler, seen=384**2, images=IMAGES) | {
      'data.dialect': 'qwen_image_plus'}


def _z_image(sections: Sections, scheduler: Mapping[str, Any]) -> Settings:
  """Z-Image; the card's guidance of 4 is written as c + g (c - u), our 5."""
  factor = 2 ** (len(sections['autoencoder']['block_channels']) - 1)
  return {
      'data.scheme': 'z_image', 'data.pair_prompt': '{caption}', 'data.empty_prompt': '',
      'data.image_size': 128 * factor, 'data.prompt_tokens': WORDS,
      'sampling.steps': 50, 'sampling.guidance': 5.0, **levels(scheduler)}


_QWEN_IMAGE = dict(system='qwen_image', models=dict(
    mllm='text_encoder', denoiser='transformer', autoencoder='vae'))
_FLUX = dict(
    system='flux',
    models=dict(text_encoder='text_encoder_2', text_encoder_2='text_encoder',
                denoiser='transformer', autoencoder='vae'),
    tokenizers=dict(text_encoder='tokenizer_2', text_encoder_2='tokenizer'))

KINDS: dict[str, Kind] = {kind.name: kind for kind in (
    Kind('FluxPipeline', settings=_flux, **_FLUX),
    Kind('FluxKontextPipeline', settings=_flux_kontext, **_FLUX),
    Kind('QwenImagePipeline', tokenizers=dict(mllm='tokenizer'), settings=_qwen_image,
         **_QWEN_IMAGE),
    Kind('QwenImageEditPipeline', tokenizers=dict(mllm='processor'), settings=_qwen_image_edit,
         **_QWEN_IMAGE),
    Kind('QwenImageEditPlusPipeline', tokenizers=dict(mllm='processor'),
         settings=_qwen_image_edit_plus, **_QWEN_IMAGE),
    Kind('ZImagePipeline', system='z_image',
         models=dict(text_encoder='text_encoder', denoiser='transformer', autoencoder='vae'),
         tokenizers=dict(text_encoder='tokenizer'), settings=_z_image,
         variants={'turbo': {'sampling.steps': 8, 'sampling.guidance': 1.0}}),
)}
