"""IOMM-XL, stage 2: mixed fine-tuning at 512 with Muon (paper Table 5, L092).

  jaxgen train --config=configs/iomm/finetune_xl_512.py --workdir=runs/iomm_xl/finetune_512

Starts from runs/iomm_xl/pretrain. Expect: GenEval 0.88 (L105).
"""

from configs.iomm import base
from configs.iomm import finetune_b_512


def get_config():
  config = base.extra_large(finetune_b_512.get_config())
  config.mesh.fsdp = 8
  config.init_from.bridge = 'runs/iomm_xl/pretrain'
  config.init_from.denoiser = 'runs/iomm_xl/pretrain'
  return config
