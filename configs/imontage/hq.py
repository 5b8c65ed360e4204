"""iMontage, stage 3: the selected samples, with a rate that falls to zero (paper Table 5).

  jaxgen train --config=configs/imontage/hq.py --workdir=runs/imontage/hq

2K steps on 64 H800, half of edits and half of the six tasks, which have equal shares (L028, L031).
"""

from configs.imontage import base
from configs.imontage import sft
from jaxgen.data.mixture import flat_mix


def get_config():
  config = sft.get_config('flat')
  config.data.interpolation = 'linear'
  config.data.sources.edits.share = (0.5,)
  for name, knots in flat_mix(base.ORDER, base.SIZES, total=0.5).items():
    config.data.sources[name].share = knots
  for name, spec in config.data.sources.items():
    spec.path = f'data/hq/{name}/*.arrayrecord'
  config.init_from.denoiser = 'runs/imontage/sft'
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 0
  config.train.steps = 2_000
  return config
