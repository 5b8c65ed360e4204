"""Low-rank adapters for FLUX.1 on one's own images, 1024 x 1024 pixels of any shape.

  jaxgen train --config=configs/flux/lora.py:PIPELINE --workdir=runs/flux_lora \
    --config.data.sources.images.path=IMAGES
  jaxgen sample --workdir=runs/flux_lora --prompt="..." --out=samples
  jaxgen convert export --workdir=runs/flux_lora --out=mine --pipeline

PIPELINE is a folder or hub id, as black-forest-labs/FLUX.1-dev; IMAGES a folder that
`jaxgen data inspect` knows: captioned images, or, for Kontext, edits. Ranks, rate and shift follow
common practice; guidance is told as 1 in training and as 3.5 in sampling. Hardware: one device of
80 GB; not run at this size.
"""

import math

from ml_collections import ConfigDict

from configs.flux import base
from configs.iomm.base import MMDIT_ATTENTION
from configs.iomm.base import MMDIT_MLP
from jaxgen.config import lora
from jaxgen.config import source
from jaxgen.data.buckets import bucket_set
from jaxgen.systems.registry import make_system


def get_config(pipeline: str = '') -> ConfigDict:
  config = base.get_config(pipeline)
  config.data.sources.images = source('auto', path='images')
  config.data.buckets = config.data.buckets or f'ratios:{config.data.image_size}'
  pixels = make_system(config).layout.latent.factor  # along a latent token
  largest = max(height * width for height, width in bucket_set(config.data.buckets)) // pixels**2
  config.data.visual_tokens = largest * (2 if config.data.clean_roles else 1)
  config.model.denoiser.remat = 'attention'
  config.model.lora.attention = lora(MMDIT_ATTENTION, rank=16, alpha=16.0)
  config.model.lora.mlp = lora(MMDIT_MLP, rank=16, alpha=16.0)
  config.trainable = ((r'.*/lora/[ab]', True), (r'.*', False))
  config.init_from.changes = ((r'denoiser/.*/lora/.*', 'reinit'),)
  config.data.dropout.all = 0.05
  if config.sampling.size_shift:
    *_, mu = config.sampling.size_shift
    config.objective.timestep_shift = math.exp(mu)
  config.optimizer.update(learning_rate=1e-4, b2=0.999, weight_decay=0.01)
  config.train.update(steps=2000, rows=1, checkpoint_every=500)
  return config
