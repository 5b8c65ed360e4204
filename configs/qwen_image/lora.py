"""Qwen-Image with low-rank adapters in its denoiser, on a folder of one's own at 1024.

  jaxgen train --config=configs/qwen_image/lora.py --workdir=runs/qwen_image_lora \\
    --config.data.sources.mine.path=FOLDER
  jaxgen convert export --workdir=runs/qwen_image_lora --out=out --lora=diffusers

The argument names the release, see base.py. Hardware: 4 GPUs or TPU chips of 80 GB; not run.
"""

from ml_collections import ConfigDict

from configs.qwen_image import base
from jaxgen.config import lora

RANK = 32


def get_config(release: str = 'image') -> ConfigDict:
  return low_rank(base.get_config(release), rank=RANK)


def low_rank(config: ConfigDict, *, rank: int) -> ConfigDict:
  """Adapters of every attention and MLP, alpha as large as the rank, in place of full training."""
  config.model.lora.blocks = lora(
      r'denoiser/blocks/(image|text)_(attention|attention_out|mlp)(/.*)?', rank=rank,
      alpha=float(rank))
  config.trainable = ((r'.*/lora/[ab]', True), (r'.*', False))
  config.init_from.changes = ((r'denoiser/.*/lora/.*', 'reinit'),)
  config.optimizer.learning_rate = 1e-4
  config.train.update(rows=4, steps=2_000)
  return config
