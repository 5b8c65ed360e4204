"""FLUX.1 as published; every config of this folder is derived from it. Not a stage itself.

The argument is the folder of a pipeline or its id on the Hugging Face hub. Without it the config
has FLUX.1-dev's sizes and expects its components under weights/flux_1_dev.
"""

from ml_collections import ConfigDict

from jaxgen.conversion.pipelines import config_of
from jaxgen.models.encoders.clip_text import CLIP_L
from jaxgen.models.encoders.t5 import T5_XXL
from jaxgen.models.registry import section

SECTIONS = dict(
    text_encoder=section(**T5_XXL), text_encoder_2=section(**CLIP_L),
    denoiser=section('mmdit', guidance_embed=True, pooled_dim=768), autoencoder=section('kl'))
SCHEDULER = dict(_class_name='FlowMatchEulerDiscreteScheduler', use_dynamic_shifting=True)


def get_config(pipeline: str = '') -> ConfigDict:
  return config_of(pipeline, 'FluxPipeline', SECTIONS, SCHEDULER, 'weights/flux_1_dev')
