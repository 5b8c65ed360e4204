"""Query-Kontext, stage 1: the language model learns to condition a small head (paper Table 3).

  jaxgen train --config=configs/query_kontext/stage1.py --workdir=runs/query_kontext/stage1

72K steps of 512 samples on 192 H100. An adapter of Qwen2.5-VL, the connector, the kontext tokens
and a head of 0.85 B parameters train on text to image, reconstruction and transformation (L055,
L060, A11). The denoiser sees no clean image.
"""

from configs.query_kontext import base
from jaxgen.config import source


def get_config():
  config = base.get_config()
  config.model.denoiser = base.denoiser(1152, 18)
  config.model.lora.mllm = base.low_rank(r'mllm/text/decoder/layers/.*', rank=128)
  config.trainable = ((r'mllm/.*/lora/[ab]', True), (r'(mllm|autoencoder)/.*', False),
                      (r'(bridge|connector|denoiser)/.*', True))
  config.init_from.mllm = 'weights/qwen2_5_vl_7b'
  config.init_from.changes = ((r'mllm/.*/lora/.*', 'reinit'),)
  # The paper gives no shares; transformation has the least data (A14).
  base.text_to_image(config, 0.6)
  base.reconstruction(config, 0.2)
  config.data.sources.transformation = source(
      'arrayrecord', 'transformation', share=(0.2,), path='data/transformation/*.arrayrecord')
  base.rows(config, 512, latents=1_044, samples=1, images=base.REFERENCES)
  config.optimizer.learning_rate = 1e-4
  config.train.steps = 72_000
  return config
