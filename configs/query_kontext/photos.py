"""Query-Kontext on photographs at 64 pixels, from nothing on two CPU cores: a subject once more.

  launch/query_kontext_photos.sh PHOTOS runs/query_kontext_photos

fits 16 pairs of photographs of one subject each, all with the same words: one is the reference, the
other the target, so that the reference alone says whom to draw. The argument is PHOTOS, a folder or
table that `jaxgen data inspect` knows. Then

  jaxgen evaluate --workdir=runs/query_kontext_photos/run --fit=16

measures the drawings, and those with another subject's reference. Roles and sequence are those of
stage 3. As nothing was trained before, all of the denoiser trains in place of an adapter, and the
language model stays as it is initialised. docs/query_kontext.md.
"""

from ml_collections import ConfigDict

from configs.query_kontext import shapes
from configs.query_kontext import stage2
from configs.query_kontext import stage3
from jaxgen.config import source
from jaxgen.models.registry import section

SIDE, FACTOR = 64, 4  # pixels; a latent token has two factors a side
FITTED = 16  # pairs


def get_config(photos: str = '../shared/data/photos/photos.jsonl') -> ConfigDict:
  config = shapes.tiny(stage3.get_config())
  config.model.lora = {}
  config.trainable = stage2.get_config().trainable
  config.init_from.changes = ()
  config.model.autoencoder = ConfigDict(section('pixel', factor=FACTOR))
  channels = 3 * (2 * FACTOR)**2
  config.model.denoiser.update(in_channels=channels, out_channels=channels, width=192, heads=3,
                               axes_dims=(8, 28, 28))
  config.data.sources = {'subjects': source('subjects', 'reference', path=photos, limit=FITTED)}
  side = SIDE // config.model.mllm.vision.patch_size  # patches of the language model's image
  tokens = (side // config.model.mllm.vision.merge)**2
  config.data.update(
      tokenizer='runs/query_kontext_photos/tokenizer', image_size=SIDE, segments_per_row=1,
      look_ahead=0, vision_pixels=(64, SIDE**2), patches=side**2,
      visual_tokens=2 * (SIDE // (2 * FACTOR))**2,
      prompt_tokens=48 + shapes.QUERIES + tokens + 2)
  config.data.dropout.all = 0.05
  config.train.update(steps=1500, rows=FITTED)
  config.sampling.guidance = 1.5
  return config
