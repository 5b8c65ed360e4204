"""The quickstart with six times the fine-tuning steps: the same small model, about an hour.

  CONFIG=configs/iomm/long.py launch/quickstart.sh runs/long

Hardware: two CPU cores. Results: docs/quickstart.md.
"""

from configs.iomm import quickstart

STEPS = dict(mllm=300, pretrain=100, finetune=8000)


def get_config(stage: str = 'finetune'):
  config = quickstart.get_config(stage)
  config.train.steps = STEPS[stage]
  return config
