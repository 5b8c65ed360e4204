"""IOMM-B, stage 2: mixed fine-tuning at 512 (paper Table 5, L092, L098).

  jaxgen data pack --kind=jsonl --path=PAIRS.jsonl --out=data/finetune
  jaxgen train --config=configs/iomm/finetune_b_512.py --workdir=runs/iomm_b/finetune_512

Starts from runs/iomm_b/pretrain. Hardware: 64 H800 or TPU chips; on fewer, add
--config.mesh.fsdp=8 and --config.train.accumulate. The paper reports 50 H800 hours (L095).
Expect: GenEval 0.89, DPG 82.95, WISE 0.55 (Table 1).
"""

from configs.iomm import base
from jaxgen.config import source

PAIRS = 'data/finetune/*.arrayrecord'


def get_config():
  config = base.get_config()
  # Half of the samples are image-only (mix ratio 0.5, L106).
  config.data.sources.images = source('arrayrecord', 'image', path=PAIRS, share=(0.5,))
  config.data.sources.pairs = source('arrayrecord', 'pair', path=PAIRS, share=(0.5,))
  config.train.rows = 256
  config.train.steps = 8_200  # 10 epochs of 210,000 images (L094, L098)
  config.init_from.bridge = 'runs/iomm_b/pretrain'
  config.init_from.denoiser = 'runs/iomm_b/pretrain'
  # Replicated parameters: four rows per device are too little compute to hide FSDP's gathers.
  config.mesh.fsdp = 1
  return config
