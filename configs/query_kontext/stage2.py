"""Query-Kontext, stage 2: the 10 B MMDiT in place of the head (paper Table 3).

  jaxgen train --config=configs/query_kontext/stage2.py --workdir=runs/query_kontext/stage2

420K steps of 1,024 samples on 192 H100. The adapter of stage 1 is merged into the language model,
which stays frozen from here on; connector, kontext tokens and all of the MMDiT train on text to
image and reconstruction (L061).
"""

from configs.query_kontext import base


def get_config():
  config = base.get_config()
  config.trainable = ((r'(mllm|autoencoder)/.*', False),
                      (r'(bridge|connector|denoiser)/.*', True))
  config.init_from.mllm = config.init_from.bridge = f'{base.RUNS}/stage1'
  config.init_from.connector = f'{base.RUNS}/stage1'
  config.init_from.denoiser = 'weights/mmdit_10b'  # pre-trained; '' begins at random
  config.init_from.changes = ((r'mllm/.*/lora/.*', 'merge'),)
  base.text_to_image(config, 0.75)
  base.reconstruction(config, 0.25)
  base.rows(config, 1024, latents=1_044, samples=1, images=1)
  config.optimizer.learning_rate = 1e-4
  config.train.steps = 420_000
  return config
