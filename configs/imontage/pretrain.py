"""iMontage, stage 1: pre-training on video frame pairs and image edits (paper Table 5).

  jaxgen train --config=configs/imontage/pretrain.py --workdir=runs/imontage/pretrain

50K steps on 64 H800. The shares move linearly from three quarters of video to three quarters of
edits (L030). A row holds as many pairs of the 37 sizes as fit: 8 at 512, 4 at 768, 2 at 1024 pixels
(L020, L021).
"""

from configs.imontage import base
from jaxgen.config import source


def get_config():
  config = base.get_config()
  config.data.sources.video = source('arrayrecord', 'edit', path='data/video/*.arrayrecord',
                                     share=(0.75, 0.25))
  config.data.sources.edits = source('arrayrecord', 'edit', path='data/edits/*.arrayrecord',
                                     share=(0.25, 0.75))
  config.data.buckets = 'canonical'
  config.data.fit = 'pad'
  config.data.visual_tokens = 18_432  # 4 pairs of 768 x 768
  config.data.segments_per_row = 8
  config.data.look_ahead = 16
  config.optimizer.warmup_steps = 1000
  config.train.steps = 50_000
  return config
