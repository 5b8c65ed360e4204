"""The quickstart with six times the steps: what the same small model reaches in about an hour.

  CONFIG=configs/iomm/long.py launch/quickstart.sh runs/long

Hardware: two CPU cores. Measured: docs/quickstart.md.
"""

from configs.iomm import quickstart

STEPS = dict(mllm=300, pretrain=100, finetune=8000)


def get_config(stage: str = 'finetune'):
  config = quickstart.get_config(stage)
  config.train.steps = STEPS[stage]
  return config
