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
  """

  name: str
  system: str
  models: Mapping[str, str]
  tokenizers: Mapping[str, str]
  settings: Callable[[Sections, Mapping[str, Any]], Settings]


# What a ``FlowMatchEulerDiscreteScheduler`` may say.
_SCHEDULER = (
    Fixed('_class_name', 'FlowMatchEulerDiscreteScheduler'),
    Fixed('time_shift_type', 'exponential'),
    *(Fixed(name, False) for name in ('use_karras_sigmas', 'use_exponential_sigmas',
                                      'use_beta_sigmas', 'invert_sigmas', 'stochastic_sampling')))


def levels(scheduler: Mapping[str, Any], where: str = 'scheduler_config.json') -> Settings:
  """The noise levels of a scheduler as fields of ``config.sampling``.

  Raises:
    UserError: a scheduler of another class, or with levels of another kind.
  """
  for field in _SCHEDULER:
    check_fixed(field, scheduler, where)
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


_FLUX = dict(
    system='flux',
    models=dict(text_encoder='text_encoder_2', text_encoder_2='text_encoder',
                denoiser='transformer', autoencoder='vae'),
    tokenizers=dict(text_encoder='tokenizer_2', text_encoder_2='tokenizer'))

KINDS: dict[str, Kind] = {kind.name: kind for kind in (
    Kind('FluxPipeline', settings=_flux, **_FLUX),
    Kind('FluxKontextPipeline', settings=_flux_kontext, **_FLUX),
)}
