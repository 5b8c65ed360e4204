"""Qwen-Image or an editor of its family, its denoiser fine-tuned as a whole on one's own images.

  jaxgen train --config=configs/qwen_image/base.py:PIPELINE --workdir=runs/qwen_image \\
    --config.data.sources.images.path=IMAGES

PIPELINE is a folder or hub id, as Qwen/Qwen-Image or Qwen/Qwen-Image-Edit-2511; without it the
config has Qwen-Image's sizes and expects its components under weights/Qwen-Image. IMAGES is a
folder that `jaxgen data inspect` knows: captioned images or, for an editor, edits and images to
refer to. Hardware: 64 GPUs or TPU chips of 80 GB; not run at this size.
"""

from ml_collections import ConfigDict

from jaxgen.config import source
from jaxgen.conversion.pipelines import config_of
from jaxgen.models.encoders.qwen2_5_vl import QWEN2_5_VL_7B
from jaxgen.models.registry import section
from jaxgen.sampling.schedules import size_shift

SECTIONS = dict(mllm=section(**QWEN2_5_VL_7B), denoiser=section('qwen_image'),
                autoencoder=section('wan_vae'))
SCHEDULER = dict(_class_name='FlowMatchEulerDiscreteScheduler', use_dynamic_shifting=True,
                 base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
LATENTS = 4_224  # tokens of an image of about 1024 x 1024 pixels, of any shape up to 1:4


def get_config(pipeline: str = '') -> ConfigDict:
  return trained(config_of(pipeline, 'QwenImagePipeline', SECTIONS, SCHEDULER,
                           'weights/Qwen-Image'))


def trained(config: ConfigDict) -> ConfigDict:
  """Turns the config of a pipeline into one of training: a row holds one sample of any shape."""
  images = config.data.max_references
  config.data.sources.images = source('auto', 'auto' if images else 'pair', path='images')
  config.data.update(buckets='area:1048576/32', visual_tokens=LATENTS * (1 + images))
  config.data.dropout.update(all=0.0, text=0.1)
  config.model.denoiser.remat = 'dots'
  config.objective.timestep_shift = round(size_shift(4096, config.sampling.size_shift), 3)
  config.optimizer.update(learning_rate=1e-5, warmup_steps=100)
  config.train.update(rows=64, steps=2_000)
  config.mesh.update(data=1, fsdp=-1)
  return config
