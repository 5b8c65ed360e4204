"""DuetGen trained in one stage, as BAGEL is: next tokens and velocities in every step.

  jaxgen train --config=configs/duetgen/joint.py --workdir=runs/duetgen/joint

The other side of the paper's decoupled training (section 4.2). Language model, connector and
denoiser train together on whole dialogues, for their tokens, and on cut ones and alignment data,
for their images. Each term is a mean over its own tokens of the global batch; the weights are
BAGEL's.
"""

from configs.duetgen import base
from configs.duetgen import stage2


def get_config():
  config = stage2.get_config()
  config.trainable = ((r'(mllm|connector|denoiser)/.*', True), (r'.*', False))
  config.init_from.mllm = base.get_config().init_from.mllm
  for spec in config.data.sources.values():
    spec.share = (0.7 * spec.share[0],)
  base.dialogues(config, 'conversation', 0.3)
  config.objective.next_token = 0.25
  return config
