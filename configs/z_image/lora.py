"""Z-Image with low-rank adapters in its denoiser, on a folder of one's own at 1024.

  jaxgen train --config=configs/z_image/lora.py --workdir=runs/z_image_lora \\
    --config.data.sources.mine.path=FOLDER
  jaxgen convert export --workdir=runs/z_image_lora --out=out --lora=diffusers

The argument names the release, see base.py. Hardware: one GPU or TPU chip of 80 GB; not run.
"""

from ml_collections import ConfigDict

from configs.z_image import base
from jaxgen.config import lora

RANK = 32


def get_config(release: str = 'base') -> ConfigDict:
  config = base.get_config(release)
  config.model.lora.blocks = lora(r'denoiser/blocks/(attention/[qkv]|attention_out|mlp/.*)',
                                  rank=RANK, alpha=float(RANK))
  config.trainable = ((r'.*/lora/[ab]', True), (r'.*', False))
  config.init_from.changes = ((r'denoiser/.*/lora/.*', 'reinit'),)
  config.optimizer.learning_rate = 1e-4
  config.train.rows = 4
  return config
