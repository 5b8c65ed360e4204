"""A full fine-tune of a FLUX-sized denoiser at 1024, with two rows on each of 64 devices.

  jaxgen plan --config=configs/plans/flux_12b.py --topology=tpu:v5p:4x4x4
  jaxgen plan --config=configs/plans/flux_12b.py --topology=gpu:h800:8x8

The denoiser is FLUX.1's, 19 double and 38 single blocks of width 3072 with its pooled vector; the
conditioning is IOMM's: InternVL3-2B through residual queries, so its input has 1536 channels.
"""

from ml_collections import ConfigDict

from configs.iomm import base
from jaxgen.config import source
from jaxgen.models.registry import section


def get_config():
  return at_1024(section('mmdit', in_channels=64, cond_dim=base.MLLM_WIDTH, pooled_dim=768,
                         remat='dots'))


def at_1024(denoiser):
  """Pairs at 1024 with a global batch of 128; all denoiser parameters train."""
  config = base.get_config()
  config.model.denoiser = ConfigDict(denoiser)
  config.data.sources.pairs = source('arrayrecord', 'pair', path='data/finetune/*.arrayrecord')
  config.data.image_size = 1024
  config.data.visual_tokens = 4096
  config.optimizer.learning_rate = 1e-5
  config.optimizer.ema_decay = 0.0
  config.train.rows = 128
  config.train.steps = 10_000
  config.mesh.fsdp = 64
  return config
