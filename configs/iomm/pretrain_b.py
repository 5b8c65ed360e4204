"""IOMM-B, stage 1: image-only pre-training at 512 (paper Table 4, L091, L097).

  jaxgen convert import --path=OpenGVLab/InternVL3-2B-hf --out=weights/internvl3_2b
  jaxgen data pack --kind=folder --path=IMAGES --out=data/pretrain
  jaxgen train --config=configs/iomm/pretrain_b.py --workdir=runs/iomm_b/pretrain

Hardware: 8 to 64 H800 or a TPU pod slice; the paper reports 1,000 H800 hours (L095).
Expect: with stage 2, GenEval 0.89, DPG 82.95, WISE 0.55 (Table 1).
"""

from configs.iomm import base
from jaxgen.config import source


def get_config():
  config = base.get_config()
  config.data.sources.images = source('arrayrecord', 'image', path='data/pretrain/*.arrayrecord')
  config.train.rows = 1024
  config.train.steps = 53_700  # about 5 epochs of 11 M images (L094)
  config.mesh.fsdp = 8
  return config
