"""IOMM-B, fine-tuned at 512 through low-rank adapters of its denoiser (not a stage of the paper).

  jaxgen train --config=configs/iomm/lora_b_512.py --workdir=runs/iomm_b/lora_512
  jaxgen convert export --workdir=runs/iomm_b/lora_512 --out=out --lora=diffusers

Starts from runs/iomm_b/finetune_512, on data packed as finetune_b_512.py says. Gradients, optimizer
state and EMA exist for the adapters alone. Hardware: 8 GPUs or TPU chips of 80 GB; not run.
"""

from configs.iomm import base
from configs.iomm import finetune_b_512


def get_config():
  config = base.low_rank(finetune_b_512.get_config(), 'runs/iomm_b/finetune_512')
  config.train.rows = 64
  config.train.steps = 2_000
  return config
