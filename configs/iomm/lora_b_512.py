"""IOMM-B, fine-tuned at 512 with low-rank adapters in its denoiser (not a stage of the paper).

  jaxgen train --config=configs/iomm/lora_b_512.py --workdir=runs/iomm_b/lora_512
  jaxgen convert export --workdir=runs/iomm_b/lora_512 --out=out --lora=diffusers

Starts from runs/iomm_b/finetune_512, on data packed as described in finetune_b_512.py. Only the
adapters have gradients, optimizer state and EMA. Hardware: 8 GPUs or TPU chips of 80 GB; not run.
"""

from configs.iomm import base
from configs.iomm import finetune_b_512


def get_config():
  config = base.low_rank(finetune_b_512.get_config(), 'runs/iomm_b/finetune_512')
  config.train.rows = 64
  config.train.steps = 2_000
  return config
