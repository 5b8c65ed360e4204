"""Real photographs at 64 pixels on two CPU cores: the whole main job on a folder of one's own.

  launch/photos.sh PHOTOS.jsonl runs/photos

packs the photographs and their captions, trains photos.py:mllm (captions), :pretrain (image-only)
and :finetune (captioned pairs among image-only samples) one after the other, and measures the fit.
Measured with the first 16 pairs (PAIRS=16): docs/tutorials/photos.md.
"""

from ml_collections import ConfigDict

from configs.iomm import shapes
from jaxgen.config import source
from jaxgen.models.registry import section

STEPS = dict(mllm=150, pretrain=150, finetune=1000)
PACKED = 'runs/photos/data/*.arrayrecord'


def get_config(stage: str = 'finetune') -> ConfigDict:
  config = _photos(shapes.captions() if stage == 'mllm' else shapes.get_config())
  if stage == 'mllm':
    config.data.sources.captions = source('arrayrecord', 'caption', path=PACKED)
  else:
    share = 1.0 if stage == 'pretrain' else 0.125
    config.data.sources.images = source('arrayrecord', 'image', path=PACKED, share=(share,))
  if stage == 'finetune':
    config.data.sources.pairs = source('arrayrecord', 'pair', path=PACKED, share=(0.875,))
  config.train.steps = STEPS[stage]
  return config


def _photos(config: ConfigDict) -> ConfigDict:
  """From small drawings to photographs of 64 pixels, with captions of up to 27 words."""
  config.model.mllm.text.vocab = 2048
  config.model.mllm.image_token_id = 2047
  config.model.mllm.vision.image_size = 64
  config.model.mllm.vision.patch_size = 8
  config.model.autoencoder = ConfigDict(section('pixel', factor=4))
  config.model.denoiser.in_channels = 192
  config.model.denoiser.width = 192
  config.model.denoiser.heads = 3
  config.model.denoiser.axes_dims = (8, 28, 28)
  config.data.tokenizer = 'runs/photos/tokenizer'
  config.data.image_size = 64
  config.data.vision_size = 64
  config.data.visual_tokens = 64 if config.data.visual_tokens else 0
  config.data.prompt_tokens = 72
  config.data.dropout.all = 0.05
  config.train.rows = 16
  config.sampling.guidance = 1.5
  return config
