"""Z-Image, its denoiser fine-tuned as a whole on one's own images.

  jaxgen train --config=configs/z_image/base.py:PIPELINE --workdir=runs/z_image \\
    --config.data.sources.images.path=IMAGES

PIPELINE is a folder or hub id, as Tongyi-MAI/Z-Image; without it the config has Z-Image's sizes and
expects its components under weights/Z-Image. Of Z-Image-Turbo, training slowly undoes the few
steps. IMAGES is a folder of captioned images. Hardware: 16 GPUs or TPU chips of 80 GB; not run at
this size.
"""

from ml_collections import ConfigDict

from jaxgen.config import source
from jaxgen.conversion.pipelines import config_of
from jaxgen.models.registry import section

# Qwen3-4B, which the release has without its head.
QWEN3_4B = dict(vocab=151_936, width=2560, layers=36, heads=32, kv_heads=8, mlp=9_728,
                head_channels=128, qkv_bias=False, qk_norm=True, tie_embeddings=True)
SECTIONS = dict(text_encoder=section('qwen3', **QWEN3_4B), denoiser=section('z_image'),
                autoencoder=section('kl'))
SCHEDULER = dict(_class_name='FlowMatchEulerDiscreteScheduler', shift=3.0)
LATENTS = 4_160  # tokens of an image of about 1024 x 1024 pixels with its learned pads


def get_config(pipeline: str = '') -> ConfigDict:
  config = config_of(pipeline, 'ZImagePipeline', SECTIONS, SCHEDULER, 'weights/Z-Image')
  config.data.sources.images = source('auto', 'pair', path='images')
  config.data.update(buckets='area:1048576/16', visual_tokens=LATENTS)
  config.data.dropout.update(all=0.0, text=0.1)
  config.model.denoiser.remat = 'dots'
  config.objective.timestep_shift = config.sampling.timestep_shift
  config.optimizer.update(learning_rate=1e-5, warmup_steps=100)
  config.train.update(rows=64, steps=2_000)
  config.mesh.update(data=1, fsdp=-1)
  return config
