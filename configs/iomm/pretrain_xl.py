"""IOMM-XL, stage 1: image-only pre-training of a 6.15 B Z-Image denoiser with Muon (Table 4).

  jaxgen train --config=configs/iomm/pretrain_xl.py --workdir=runs/iomm_xl/pretrain

Hardware: 64 H800 or a TPU pod slice. Expect: with stage 2, GenEval 0.88 at this mask ratio
(L105).
"""

from configs.iomm import base
from configs.iomm import pretrain_b


def get_config():
  config = base.extra_large(pretrain_b.get_config())
  config.train.rows = 4096
  config.train.accumulate = 16  # 4 rows per micro-batch on each of 64 devices; 64 take 324 GiB
  config.train.steps = 13_400  # as many samples as pretrain_b.py
  return config
