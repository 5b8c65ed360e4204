"""The quickstart with four times the steps: what the same small model reaches in less than an hour.

  CONFIG=configs/iomm/long.py launch/quickstart.sh runs/long

Hardware: two CPU cores. Measured: docs/quickstart.md.
"""

from configs.iomm import quickstart

STEPS = dict(mllm=400, pretrain=250, finetune=3000)


def get_config(stage: str = 'finetune'):
  config = quickstart.get_config(stage)
  config.train.steps = STEPS[stage]
  return config
