"""Low-rank adapters for Z-Image on one's own images.

  jaxgen train --config=configs/z_image/lora.py:PIPELINE --workdir=runs/z_image_lora \\
    --config.data.sources.images.path=IMAGES
  jaxgen sample --workdir=runs/z_image_lora --prompt="..." --out=samples
  jaxgen convert export --workdir=runs/z_image_lora --out=mine --pipeline

PIPELINE and IMAGES are those of base.py. Hardware: one GPU or TPU chip of 80 GB; not run at this
size.
"""

from ml_collections import ConfigDict

from configs.z_image import base
from jaxgen.finetuning.recipe import adapt


def get_config(pipeline: str = '') -> ConfigDict:
  config = base.get_config(pipeline)
  adapt(config, 32, r'denoiser/blocks/(attention/[qkv]|attention_out|mlp/.*)')
  config.optimizer.learning_rate = 1e-4
  config.train.rows = 4
  return config
