"""Query-Kontext, stage 3: given images as clean latents, editing and subjects (paper Table 3).

  jaxgen train --config=configs/query_kontext/stage3.py --workdir=runs/query_kontext/stage3

30K steps of about 512 samples on 192 H100: a row holds two on average, as text to image has one
image and several subjects have three. An adapter of the MMDiT, the connector and the kontext
tokens train (L062, L064).
"""

from configs.query_kontext import base
from jaxgen.config import source


def get_config():
  config = base.get_config()
  config.model.lora.denoiser = base.low_rank(
      r'denoiser/blocks/(image|text)_(attention|attention_out|mlp)(/.*)?', rank=256)
  config.trainable = ((r'denoiser/.*/lora/[ab]', True), (r'(mllm|denoiser|autoencoder)/.*', False),
                      (r'(bridge|connector)/.*', True))
  for group in ('mllm', 'bridge', 'connector', 'denoiser'):
    config.init_from[group] = f'{base.RUNS}/stage2'
  config.init_from.changes = ((r'denoiser/.*/lora/.*', 'reinit'),)
  config.data.clean_roles = ('source', 'reference')
  # Tasks of Table 1; the paper gives no shares (A14).
  base.text_to_image(config, 0.3)
  base.reconstruction(config, 0.1)
  for name, task, share in (('editing', 'edit', 0.3), ('customised', 'reference', 0.2),
                            ('multi_subject', 'reference', 0.1)):
    config.data.sources[name] = source('arrayrecord', task, share=(share,),
                                       path=f'data/{name}/*.arrayrecord')
  base.rows(config, 256, latents=4_176, samples=4, images=4)
  config.optimizer.learning_rate = 2e-5
  config.train.steps = 30_000
  return config
