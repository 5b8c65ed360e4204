"""The quickstart with six times the fine-tuning steps: the same small model, about an hour.

  CONFIG=configs/iomm/long.py launch/quickstart.sh runs/long

Hardware: two CPU cores. Results: docs/quickstart.md. Every 1000 steps of the last stage it computes
the loss of held-out captions and draws the four prompts of validation.json; the report shows both.
"""

from configs.iomm import quickstart
from jaxgen.config import source

STEPS = dict(mllm=300, pretrain=100, finetune=8000)


def get_config(stage: str = 'finetune'):
  config = quickstart.get_config(stage)
  config.train.steps = STEPS[stage]
  if stage == 'finetune':
    config.validation.update(every=1000, requests='configs/iomm/validation.json')
    for task in ('pair', 'image'):
      config.validation.sources[task] = source('shapes', task, split='test')
  return config
