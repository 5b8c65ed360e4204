"""Query-Kontext as published; every config of this folder is derived from it. Not a stage itself.

Table 3 of the paper gives the stages, its section 3.3 the adapters (L060-L064), its appendix D the
sizes (L051-L054, A09-A11).
"""

from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.config import lora
from jaxgen.config import source
from jaxgen.models.encoders.qwen2_5_vl import QWEN2_5_VL_7B
from jaxgen.models.registry import section

MLLM_WIDTH, STATES = 3584, 2560  # of Qwen2.5-VL-7B; what the connector makes of it
TEXT, QUERIES, REFERENCES = 512, 128, 2  # tokens of a prompt, kontext tokens, images (L049, L056)
RUNS = 'runs/query_kontext'


def denoiser(width: int, layers: int) -> ConfigDict:
  """A dual-stream MMDiT with heads of 64 channels (L052); 42 x 2560 has 9.9 B parameters."""
  return ConfigDict(section('qwen_image', cond_dim=STATES, width=width, layers=layers,
                            heads=width // 64, axes_dims=(8, 28, 28), remat='dots'))


def get_config() -> ConfigDict:
  config = base_config()
  config.system = 'query_kontext'
  config.model.mllm = ConfigDict(section(**QWEN2_5_VL_7B))
  config.model.bridge = ConfigDict(section('learnable_queries', width=MLLM_WIDTH, queries=QUERIES))
  config.model.connector = ConfigDict(section('mlp_connector', out_width=STATES))
  config.model.denoiser = denoiser(2560, 42)
  config.model.autoencoder = ConfigDict(section('kl'))
  config.init_from.connector = ''
  config.init_from.autoencoder = 'weights/flux_vae'

  config.data.tokenizer = 'Qwen/Qwen2.5-VL-7B-Instruct'
  config.data.dialect = 'qwen_chat'
  config.data.scheme = 'shifted'
  config.data.image_size = 512
  config.data.buckets = 'ratios:512'  # the seven aspect ratios (L066)
  config.data.max_references = REFERENCES
  config.data.vision_pixels = (3_136, 262_144)  # the images of the MLLM, at most 512 x 512
  config.data.pair_prompt = config.data.edit_prompt = '{caption}'
  config.data.empty_prompt = ''
  config.data.threads = 16

  config.optimizer.clip_norm = 1.0
  config.optimizer.weight_decay = 0.0
  config.optimizer.ema_decay = 0.999
  config.train.checkpoint_every = 1000
  # The paper splits the language model's heads and runs ZeRO-2 on the denoiser (L065); here the
  # tensor axis splits the heads and hidden units of both.
  config.mesh.update(fsdp=8, tensor=2)
  config.train.zero = 2
  config.sampling.update(steps=50, guidance=4.0)
  return config


def rows(config: ConfigDict, count: int, *, latents: int, samples: int, images: int) -> None:
  """Sets the rows of a step, which pack samples of any aspect and number of images (L066).

  Args:
    config: changed.
    count: rows of the global batch.
    latents: visual tokens of a row; the fullest of the seven aspect ratios has 1,044 at 512.
    samples: most samples of a row.
    images: most images that the language model sees in a row, of at most 512 x 512 pixels.
  """
  seen = config.data.vision_pixels[1] // 28**2  # tokens of four patches of 14 pixels
  config.train.rows = count
  config.data.update(
      visual_tokens=latents, segments_per_row=samples, look_ahead=8 if samples > 1 else 0,
      # An image stands between two tokens of its own.
      prompt_tokens=samples * (TEXT + QUERIES) + images * (seen + 2), patches=images * 4 * seen)


def text_to_image(config: ConfigDict, share: float) -> None:
  """Adds captioned images, 30 M in English and 170 M in Chinese, by their sizes (L068)."""
  for name, part in (('english', 0.15), ('chinese', 0.85)):
    config.data.sources[name] = source('arrayrecord', 'pair', share=(part * share,),
                                       path=f'data/t2i_{name}/*.arrayrecord')


def reconstruction(config: ConfigDict, share: float) -> None:
  """Adds the same images, each to be drawn again (L060)."""
  config.data.sources.reconstruction = source(
      'arrayrecord', 'reconstruction', share=(share,), path='data/t2i_*/*.arrayrecord')


def low_rank(modules: str, *, rank: int) -> ConfigDict:
  """An adapter with alpha 256, as both of the paper have (L064)."""
  return lora(modules, rank=rank, alpha=256.0)
