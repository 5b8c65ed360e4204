"""IOMM-L, stage 1: like pretrain_b.py with 2.79 B parameters, 512 rows and no EMA (Table 4).

  jaxgen train --config=configs/iomm/pretrain_l.py --workdir=runs/iomm_l/pretrain

Hardware: see pretrain_b.py. Expect: with stage 2, GenEval 0.87, DPG 76.09, WISE 0.53 after half
the epochs of B (L101).
"""

from configs.iomm import base
from configs.iomm import pretrain_b


def get_config():
  config = pretrain_b.get_config()
  config.model.denoiser = base.flux_denoiser(2048)
  config.optimizer.ema_decay = 0.0  # L091, A19
  config.train.rows = 512
  return config
