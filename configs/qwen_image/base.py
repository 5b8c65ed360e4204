"""Qwen-Image, all of its 20 B denoiser fine-tuned on a folder of one's own at 1024.

  jaxgen train --config=configs/qwen_image/base.py --workdir=runs/qwen_image \\
    --config.data.sources.mine.path=FOLDER

FOLDER holds images with captions. The argument names another release: ``base.py:edit``,
``edit_2509`` and ``edit_2511`` are Qwen-Image-Edit and its multi-image successors, whose FOLDER
holds images to edit or to refer to as well. Weights are read from weights/Qwen-Image and so on, a
copy of the repository on the Hugging Face hub. Hardware: 64 GPUs or TPU chips of 80 GB; not run.
"""

from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.config import source
from jaxgen.core.errors import user_error
from jaxgen.models.encoders.qwen2_5_vl import QWEN2_5_VL_7B
from jaxgen.models.registry import section

WORDS = 512  # tokens of an instruction that the denoiser is told
CROPPED = 64  # tokens of the longest template that it is not
LATENTS = 4_224  # tokens of an image of about 1024 x 1024 pixels, of any shape up to 1:4
SIZE_SHIFT = (256, 0.5, 8192, 0.9)  # of scheduler_config.json, all releases
# Release -> folder, images in a prompt, pixels of each as the language model sees it, dialect.
RELEASES = {
    'image': ('Qwen-Image', 0, 0, 'qwen_image'),
    'edit': ('Qwen-Image-Edit', 1, 1024**2, 'qwen_image'),
    'edit_2509': ('Qwen-Image-Edit-2509', 3, 384**2, 'qwen_image_plus'),
    'edit_2511': ('Qwen-Image-Edit-2511', 3, 384**2, 'qwen_image_plus'),
}


def get_config(release: str = 'image') -> ConfigDict:
  if release not in RELEASES:
    raise user_error('--config', f':{release}', f'write one of {", ".join(RELEASES)}')
  config = base_config()
  config.system = 'qwen_image'
  config.model.mllm = ConfigDict(section(**QWEN2_5_VL_7B))
  config.model.denoiser = ConfigDict(section(
      'qwen_image', remat='dots', clean_time='zero' if release == 'edit_2511' else 'same'))
  config.model.autoencoder = ConfigDict(section('wan_vae'))
  config.trainable = ((r'denoiser/.*', True), (r'.*', False))

  config.data.image_size = 1024
  config.data.buckets = 'area:1048576/32'
  config.data.pair_prompt = config.data.edit_prompt = '{caption}'
  config.data.empty_prompt = ' '
  config.data.dropout.update(all=0.0, text=0.1)
  config.data.scheme = 'qwen_image'
  config.data.prompt_cut = WORDS
  _release(config, *RELEASES[release])

  config.optimizer.update(learning_rate=1e-5, warmup_steps=100)
  config.objective.timestep_shift = 2.0  # what the release draws with at 1024 x 1024
  config.train.update(rows=64, steps=2_000)
  config.mesh.update(data=1, fsdp=-1)
  config.sampling.update(steps=50, guidance=4.0, renormalize='token', negative_prompt=' ')
  return config


def _release(config: ConfigDict, name: str, images: int, pixels: int, dialect: str) -> None:
  """Where the weights lie, and what a row holds: a sample with its most images."""
  folder = f'weights/{name}'
  config.init_from.mllm = f'{folder}/text_encoder'
  config.init_from.denoiser = f'{folder}/transformer'
  config.init_from.autoencoder = f'{folder}/vae'
  config.data.tokenizer = f'{folder}/processor' if images else f'{folder}/tokenizer'
  config.data.dialect = dialect
  config.data.sources.mine = source('auto', 'auto' if images else 'pair', path='data/mine')
  # An image token is 28 x 28 pixels, and rounding both sides may add an eighth to them. Beside an
  # image stand the tokens that begin and end it, and in the later releases its number.
  seen = round(1.125 * pixels / 28**2)
  config.data.update(
      visual_tokens=LATENTS * (1 + images), patches=4 * images * seen,
      prompt_tokens=CROPPED + WORDS + images * (seen + 8))
  if images:
    config.data.update(references='area', reference_pixels=(1024**2,), vision_area=pixels,
                       vision_pixels=(3_136, 12_845_056), max_references=images,
                       clean_roles=('source', 'reference', 'context'))
