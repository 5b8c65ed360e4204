"""Query-Kontext, the last stage: 1024 x 1024, the mixture of stage 3 (paper section 3.3, L063).

  jaxgen train --config=configs/query_kontext/stage3_1024.py \\
    --workdir=runs/query_kontext/stage3_1024

3K steps of about 256 samples on 192 H100: two in a row on average, as in stage 3.
"""

from configs.query_kontext import base
from configs.query_kontext import stage3


def get_config():
  config = stage3.get_config()
  for group in ('mllm', 'bridge', 'connector', 'denoiser'):
    config.init_from[group] = f'{base.RUNS}/stage3'
  config.init_from.changes = ()
  config.data.image_size = 1024
  config.data.buckets = 'ratios:1024'
  base.rows(config, 128, latents=16_600, samples=4, images=4)
  config.optimizer.learning_rate = 1e-5
  config.train.steps = 3_000
  return config
