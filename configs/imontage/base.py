"""iMontage as published; every config of this folder is derived from it. Not a stage itself.

Table 5 of the paper: AdamW, a constant rate of 1e-5, shift 5 and a text dropout of 0.1 in every
stage; only the MMDiT trains (L005, L024-L029).
"""

from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.models.encoders.clip_text import CLIP_L
from jaxgen.models.registry import section

# LLaVA's Llama 3, whose vocabulary has 64 further tokens; the tower has no head of its own.
LLAMA_3 = dict(vocab=128_320, width=4096, layers=32, heads=32, kv_heads=8, mlp=14_336,
               qkv_bias=False, rope_theta=5e5, tie_embeddings=True)
PROMPT = 'Please output {outputs} images according to the instruction: {caption}'  # L008
# Samples of the multi-task sets (L014-L019), by name of the source.
SIZES = dict(multi_reference=90_000, control_reference=50_000, style_reference=35_000,
             multi_turn=100_000, multi_view=90_000, storyboard=29_000)
# From the easiest task to the hardest; the ends are the paper's, the rest is ours (L034, A08).
ORDER = ('multi_turn', 'multi_view', 'control_reference', 'style_reference', 'multi_reference',
         'storyboard')
MANY_TO_ONE = ('control_reference', 'style_reference', 'multi_reference')


def get_config() -> ConfigDict:
  config = base_config()
  config.system = 'imontage'
  config.model.text_encoder = ConfigDict(section('llama', **LLAMA_3))
  config.model.text_encoder_2 = ConfigDict(section(**CLIP_L))
  config.model.denoiser = ConfigDict(section('hunyuan_video', remat='attention'))
  config.model.autoencoder = ConfigDict(section('hunyuan_video_vae'))
  config.trainable = ((r'denoiser/.*', True), (r'.*', False))
  config.init_from.text_encoder = 'weights/llava_llama3_8b'
  config.init_from.text_encoder_2 = 'weights/clip_l'
  config.init_from.denoiser = 'weights/hunyuan_video_i2v'
  config.init_from.autoencoder = 'weights/hunyuan_video_vae'

  config.data.tower_tokenizers.text_encoder = 'weights/llava_llama3_8b/tokenizer'
  config.data.tower_tokenizers.text_encoder_2 = 'weights/clip_l/tokenizer'
  config.data.prompt_tokens = 256  # L134
  config.data.scheme = 'marginal'
  config.data.clean_roles = ('context', 'source', 'reference')
  config.data.pair_prompt = config.data.edit_prompt = PROMPT
  config.data.empty_prompt = ''
  config.data.dropout.update(all=0.0, text=0.1)
  config.data.threads = 16

  config.objective.timestep_shift = 5.0
  config.optimizer.update(learning_rate=1e-5, b1=0.9, b2=0.999, eps=1e-8, clip_norm=1.0)
  config.train.rows = 64  # one for each H800 (L036)
  config.train.checkpoint_every = 500
  split(config, 2)
  config.sampling.update(steps=50, guidance=6.0, timestep_shift=5.0)  # L037
  return config


def split(config: ConfigDict, devices: int) -> None:
  """Splits every row over so many of the 64 devices, which take their rows one after another."""
  config.mesh.update(data=1, fsdp=64 // devices, context=devices)
  config.train.accumulate = devices
