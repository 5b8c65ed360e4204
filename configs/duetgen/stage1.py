"""DuetGen, stage 1: the language model learns to write dialogues and to call for images.

  jaxgen train --config=configs/duetgen/stage1.py --workdir=runs/duetgen/stage1

Qwen2.5-VL alone trains by next-token prediction on the 298k dialogues of the instruction data;
turns of the user are masked, <BOV> of the assistant's images is in the loss (L114). <BOV> is Qwen's
<|vision_start|> (A20); ``--config.data.bov_token=NAME`` uses a token of its own. Steps, rows and
rate are ours (A22): about three epochs on 64 H800.
"""

from configs.duetgen import base


def get_config():
  config = base.get_config()
  config.trainable = ((r'mllm/.*', True), (r'(connector|denoiser|autoencoder)/.*', False))
  base.dialogues(config, 'conversation', 1.0)
  config.data.visual_tokens = 0
  config.data.prompt_tokens = 8_192
  config.data.patches = 2 * base.IMAGES * 4 * base.SEEN
  config.objective.update(flow_matching=0.0, next_token=1.0)
  config.optimizer.update(learning_rate=1e-5, b2=0.95, weight_decay=0.0, clip_norm=1.0)
  config.train.steps = 4_500
  config.mesh.fsdp = 8  # gathers within a node or a cube; memory is not short
  return config
