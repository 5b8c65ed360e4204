"""iMontage on photographs at 64 pixels, from nothing on two CPU cores: views and turns.

  launch/imontage_photos.sh PHOTOS runs/imontage_photos

trains on windows of the photographs of PHOTOS, a folder or table that `jaxgen data inspect` knows,
in two tasks: one to three moves of the window, and one to three changes of all its pixels. An
eighth of the subjects is held out. The argument is PHOTOS. Then

  jaxgen evaluate --workdir=runs/imontage_photos/run --held-out=64

measures the outputs beside a copy of the input. Model and optimizer are those of shapes.py.
"""

from ml_collections import ConfigDict

from configs.imontage import shapes
from jaxgen.config import source
from jaxgen.models.registry import section

SIDE, FACTOR = 64, 4  # pixels; a latent token has two factors a side
IMAGES = 4  # given and drawn, in one sample


def get_config(photos: str = '../shared/data/photos/photos.jsonl') -> ConfigDict:
  config = shapes.tiny()
  for task in ('views', 'turns'):
    config.data.sources[task] = source('photos', 'many_to_many', path=photos,
                                       fields=(('task', task),))
  config.model.autoencoder = ConfigDict(section('pixel', factor=FACTOR))
  channels = 3 * (2 * FACTOR) ** 2
  config.model.denoiser.update(in_channels=channels, out_channels=channels, width=192, heads=3,
                               axes_dims=(8, 28, 28))
  config.trainable = ((r'denoiser/.*|text_encoder.*/.*', True), (r'.*', False))
  for group in ('text_encoder', 'text_encoder_2'):
    config.data.tower_tokenizers[group] = 'runs/imontage_photos/tokenizer'
  config.data.image_size = SIDE
  config.data.visual_tokens = IMAGES * (SIDE // (2 * FACTOR)) ** 2
  config.data.prompt_tokens = 64
  config.data.segments_per_row = 2
  config.data.look_ahead = 8
  config.train.update(steps=4000, rows=16)
  return config
