"""IOMM-B, stage 2 at 1024 (paper Table 5): like finetune_b_512.py with four times the tokens.

  jaxgen train --config=configs/iomm/finetune_b_1024.py --workdir=runs/iomm_b/finetune_1024

Hardware: see finetune_b_512.py. Expect: GenEval 0.87, DPG 80.71, WISE 0.50 (Table 1).
"""

from configs.iomm import finetune_b_512


def get_config():
  config = finetune_b_512.get_config()
  config.data.image_size = 1024
  config.data.visual_tokens = 4096
  config.train.rows = 96
  config.train.steps = 21_900  # 10 epochs
  config.mesh.fsdp = 8
  return config
