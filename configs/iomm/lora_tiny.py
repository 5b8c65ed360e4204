"""Smoke test of low-rank adapters: 20 steps starting from runs/tiny, under 2 minutes.

  jaxgen train --config=configs/iomm/lora_tiny.py --workdir=runs/lora_tiny
  jaxgen convert export --workdir=runs/lora_tiny --out=out --lora=peft
"""

from configs.iomm import base
from configs.iomm import tiny

START = 'runs/tiny'


def get_config():
  config = base.low_rank(tiny.get_config(), START)
  config.model.lora.attention.update(rank=4, alpha=4.0)
  config.model.lora.mlp.update(rank=2, alpha=2.0)
  config.init_from.mllm = START
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  return config
