"""Z-Image, all of its 6 B denoiser fine-tuned on a folder of one's own at 1024.

  jaxgen train --config=configs/z_image/base.py --workdir=runs/z_image \\
    --config.data.sources.mine.path=FOLDER

FOLDER holds images with captions. Weights are read from weights/Z-Image, a copy of the repository
on the Hugging Face hub; ``base.py:turbo`` takes weights/Z-Image-Turbo, whose few steps fine-tuning
slowly undoes. Hardware: 16 GPUs or TPU chips of 80 GB; not run.
"""

from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.config import source
from jaxgen.core.errors import user_error
from jaxgen.models.registry import section

# Qwen3-4B, which the release has without its head.
QWEN3_4B = dict(vocab=151_936, width=2560, layers=36, heads=32, kv_heads=8, mlp=9_728,
                head_channels=128, qkv_bias=False, qk_norm=True, tie_embeddings=True)
# Release -> folder, steps, guidance, timestep shift.
RELEASES = {'base': ('Z-Image', 50, 5.0, 6.0), 'turbo': ('Z-Image-Turbo', 8, 1.0, 3.0)}


def get_config(release: str = 'base') -> ConfigDict:
  if release not in RELEASES:
    raise user_error('--config', f':{release}', f'write one of {", ".join(RELEASES)}')
  name, steps, guidance, shift = RELEASES[release]
  folder = f'weights/{name}'
  config = base_config()
  config.system = 'z_image'
  config.model.text_encoder = ConfigDict(section('qwen3', **QWEN3_4B))
  config.model.denoiser = ConfigDict(section('z_image', remat='dots'))
  config.model.autoencoder = ConfigDict(section('kl'))
  config.trainable = ((r'denoiser/.*', True), (r'.*', False))
  config.init_from.text_encoder = f'{folder}/text_encoder'
  config.init_from.denoiser = f'{folder}/transformer'
  config.init_from.autoencoder = f'{folder}/vae'

  config.data.sources.mine = source('auto', 'pair', path='data/mine')
  config.data.tower_tokenizers.text_encoder = f'{folder}/tokenizer'
  config.data.prompt_tokens = 512
  config.data.image_size = 1024
  config.data.buckets = 'area:1048576/16'
  config.data.visual_tokens = 4_160
  config.data.scheme = 'z_image'
  config.data.pair_prompt = '{caption}'
  config.data.empty_prompt = ''
  config.data.dropout.update(all=0.0, text=0.1)

  config.optimizer.update(learning_rate=1e-5, warmup_steps=100)
  config.objective.timestep_shift = shift
  config.train.update(rows=64, steps=2_000)
  config.mesh.update(data=1, fsdp=-1)
  config.sampling.update(steps=steps, guidance=guidance, timestep_shift=shift)
  return config
