"""IOMM-L, stage 2: mixed fine-tuning at 512 (paper Table 5, L092).

  jaxgen train --config=configs/iomm/finetune_l_512.py --workdir=runs/iomm_l/finetune_512

Starts from runs/iomm_l/pretrain. Expect: GenEval 0.87, DPG 76.09, WISE 0.53 (Table 1).
"""

from configs.iomm import base
from configs.iomm import finetune_b_512


def get_config():
  return large(finetune_b_512.get_config())


def large(config):
  """Turns stage 2 of IOMM-B into that of IOMM-L: denoiser, initial weights, no EMA."""
  config.model.denoiser = base.flux_denoiser(2048)
  config.optimizer.ema_decay = 0.0  # L092
  config.init_from.bridge = 'runs/iomm_l/pretrain'
  config.init_from.denoiser = 'runs/iomm_l/pretrain'
  return config
