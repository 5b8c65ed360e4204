"""Low-rank adapters for Qwen-Image or an editor of its family on one's own images.

  jaxgen train --config=configs/qwen_image/lora.py:PIPELINE --workdir=runs/qwen_image_lora \\
    --config.data.sources.images.path=IMAGES
  jaxgen sample --workdir=runs/qwen_image_lora --prompt="..." --out=samples
  jaxgen convert export --workdir=runs/qwen_image_lora --out=mine --pipeline

PIPELINE and IMAGES are those of base.py. Hardware: 4 GPUs or TPU chips of 80 GB; not run at this
size.
"""

from ml_collections import ConfigDict

from configs.qwen_image import base
from jaxgen.finetuning.recipe import adapt


def get_config(pipeline: str = '') -> ConfigDict:
  return low_rank(base.get_config(pipeline), rank=32)


def low_rank(config: ConfigDict, *, rank: int) -> ConfigDict:
  """Adapters beside every attention and MLP, alpha as large as the rank, train alone."""
  adapt(config, rank, r'denoiser/blocks/(image|text)_(attention|attention_out|mlp)(/.*)?')
  config.optimizer.learning_rate = 1e-4
  config.train.rows = 4
  return config
