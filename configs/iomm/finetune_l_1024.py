"""IOMM-L, stage 2 at 1024 (paper Table 5, L092).

  jaxgen train --config=configs/iomm/finetune_l_1024.py --workdir=runs/iomm_l/finetune_1024

Starts from runs/iomm_l/pretrain. Expect: GenEval 0.85, DPG 72.26, WISE 0.48 (Table 1).
"""

from configs.iomm import finetune_b_1024
from configs.iomm import finetune_l_512


def get_config():
  return finetune_l_512.large(finetune_b_1024.get_config())
