"""The quickstart: IOMM from scratch on drawn shapes, in three short stages on two CPU cores.

  make quickstart

runs launch/quickstart.sh, which trains quickstart.py:mllm, :pretrain and :finetune in turn, then
samples, scores, exports and writes a report. Scores: docs/quickstart.md.
"""

from configs.iomm import shapes

STEPS = dict(mllm=300, pretrain=100, finetune=1500)


def get_config(stage: str = 'finetune'):
  if stage == 'mllm':
    config = shapes.captions()
  elif stage == 'pretrain':
    config = shapes.generation(image_share=1.0)
  else:
    config = shapes.generation(image_share=0.2)
  config.train.steps = STEPS[stage]
  return config
