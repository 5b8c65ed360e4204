"""IOMM-B, stage 2: mixed fine-tuning at 512 (paper Table 5, L092, L098).

  jaxgen data pack --kind=jsonl --path=PAIRS.jsonl --out=data/finetune
  jaxgen train --config=configs/iomm/finetune_b_512.py --workdir=runs/iomm_b/finetune_512

Starts from runs/iomm_b/pretrain. Hardware: 64 H800 or TPU chips; on fewer, add
--config.mesh.fsdp=8 and --config.train.accumulate. The paper reports 50 H800 hours (L095).
Expect: GenEval 0.89, DPG 82.95, WISE 0.55 (Table 1).
"""

from ml_collections import ConfigDict

from configs.iomm import base
from jaxgen.config import source
from jaxgen.core.errors import user_error

PAIRS = 'data/finetune/*.arrayrecord'


def get_config():
  config = base.get_config()
  config.data.sources = recipe('mix')
  config.train.rows = 256
  config.train.steps = 8_200  # 10 epochs of 210,000 images (L094, L098)
  config.init_from.bridge = 'runs/iomm_b/pretrain'
  config.init_from.denoiser = 'runs/iomm_b/pretrain'
  # Replicated parameters: four rows per device are too little compute to hide FSDP's gathers.
  config.mesh.fsdp = 1
  return config


def recipe(name: str) -> ConfigDict:
  """The sources of a recipe of fine-tuning (L096): half of a mix is image-only (L106)."""
  shares = {'mix': (0.5, 0.5), 'image': (1.0, 0.0), 'pair': (0.0, 1.0)}
  if name not in shares:
    raise user_error('--config', f':{name}', f'write one of {", ".join(shares)}')
  return ConfigDict({label: source('arrayrecord', task, path=PAIRS, share=(share,))
                     for label, task, share in zip(('images', 'pairs'), ('image', 'pair'),
                                                   shares[name]) if share})
