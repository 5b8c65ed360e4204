"""FLUX's classes on real photographs at 64 px, small enough for two CPU cores.

  launch/finetune_photos.sh PHOTOS.jsonl runs/subject

makes a pipeline whose denoiser has learnt nothing, trains it here on captioned photographs until it
draws them, and fine-tunes the result for one subject with `jaxgen finetune`. The argument is the
folder of that pipeline; towers and autoencoder stay as they are. Measured: docs/published.md.
"""

from ml_collections import ConfigDict

from configs.flux import base
from jaxgen.config import source


def get_config(pipeline: str) -> ConfigDict:
  config = base.get_config(pipeline)
  config.init_from.denoiser = ''
  config.data.sources.photos = source('folder', 'pair', path='photos')
  config.data.update(image_size=64, visual_tokens=64, prompt_tokens=96, threads=1)
  config.data.dropout.all = 0.05
  config.objective.timestep_shift = config.sampling.timestep_shift
  config.optimizer.update(name='muon', learning_rate=8e-3, schedule='cosine', warmup_steps=50)
  config.train.update(rows=16, steps=1000, checkpoint_every=500)
  config.sampling.update(steps=20, guidance=1.5)
  return config
