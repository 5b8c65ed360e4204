"""Smoke test: 20 steps from scratch on images and pairs of shapes, under 2 minutes.

  jaxgen data tokenizer --kind=shapes --out=runs/shapes/tokenizer
  jaxgen train --config=configs/iomm/tiny.py --workdir=runs/tiny
"""

from configs.iomm import shapes


def get_config():
  config = shapes.generation(image_share=0.5)
  config.model.denoiser.double_blocks = 1
  config.model.denoiser.single_blocks = 1
  config.model.mllm.text.layers = 2
  config.model.bridge.queries = 4
  config.train.steps = 20
  config.train.rows = 16
  config.train.log_every = 5
  config.train.checkpoint_every = 10
  config.optimizer.warmup_steps = 2
  return config
