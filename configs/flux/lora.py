"""Low-rank adapters for FLUX.1 on one's own images, 1024 x 1024 pixels of any shape.

  jaxgen train --config=configs/flux/lora.py:PIPELINE --workdir=runs/flux_lora \
    --config.data.sources.images.path=IMAGES
  jaxgen sample --workdir=runs/flux_lora --prompt="..." --out=samples
  jaxgen convert export --workdir=runs/flux_lora --out=mine --pipeline

PIPELINE is a folder or hub id, as black-forest-labs/FLUX.1-dev; IMAGES a folder that
`jaxgen data inspect` knows: captioned images, or, for Kontext, edits. The recipe is that of
`jaxgen finetune`, which also fits it to the devices. Guidance is told as 1 in training and as 3.5
in sampling. Hardware: one device of 80 GB; not run at this size.
"""

from ml_collections import ConfigDict

from configs.flux import base
from jaxgen.data.buckets import bucket_set
from jaxgen.finetuning.recipe import recipe
from jaxgen.systems.registry import make_system


def get_config(pipeline: str = '') -> ConfigDict:
  config = recipe(base.get_config(pipeline), 'images', rank=16, steps=2000)
  pixels = make_system(config).layout.latent.factor  # along a latent token
  largest = max(height * width for height, width in bucket_set(config.data.buckets)) // pixels**2
  config.data.visual_tokens = largest * (2 if config.data.clean_roles else 1)
  config.model.denoiser.remat = 'attention'
  config.train.rows = 1
  return config
