"""IOMM-B as published; every config of this folder is derived from it. Not a stage itself."""

from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.config import lora
from jaxgen.models.encoders.internvl import INTERNVL3_2B
from jaxgen.models.registry import section

MLLM_WIDTH = 1536  # hidden size of InternVL3-2B

FREEZE_ENCODERS = (
    (r'bridge/.*|denoiser/.*', True),
    (r'mllm/.*|autoencoder/.*', False),
)


def flux_denoiser(width: int) -> ConfigDict:
  """MMDiT with 10 double and 20 single blocks (A16); width 1536 is IOMM-B, width 2048 is IOMM-L."""
  return ConfigDict(section(
      'mmdit', in_channels=64, cond_dim=MLLM_WIDTH, width=width, heads=width // 128,
      double_blocks=10, single_blocks=20, remat='dots'))


def extra_large(config: ConfigDict) -> ConfigDict:
  """Turns a stage of IOMM-B into one of IOMM-XL: Z-Image, Muon, no EMA, lower mask ratio (L091)."""
  config.model.denoiser = ConfigDict(section('z_image', cond_dim=MLLM_WIDTH, remat='dots'))
  config.data.scheme = 'z_image'
  config.model.mask_ratio = 0.45
  config.optimizer.name = 'muon'
  config.optimizer.ema_decay = 0.0
  return config


def low_rank(config: ConfigDict, start: str) -> ConfigDict:
  """Turns a stage into one that trains only denoiser adapters, starting from the run ``start``.

  The paper has no such stage; ranks and modules follow common practice for FLUX.
  """
  config.model.lora.attention = lora(
      r'denoiser/.*attention/(q|k|v)|denoiser/.*attention_out|denoiser/single_blocks/out',
      rank=32, alpha=32.0)
  config.model.lora.mlp = lora(
      r'denoiser/double_blocks/.*_mlp/.*|denoiser/single_blocks/mlp_up', rank=16, alpha=16.0)
  config.trainable = ((r'.*/lora/[ab]', True), (r'.*', False))
  config.init_from.bridge = config.init_from.denoiser = start
  config.init_from.changes = ((r'denoiser/.*/lora/.*', 'reinit'),)
  return config


def get_config() -> ConfigDict:
  config = base_config()
  config.system = 'iomm'
  config.model.mllm = ConfigDict(section(**INTERNVL3_2B))
  config.model.bridge = ConfigDict(section('residual_queries', width=MLLM_WIDTH, queries=256))
  config.model.denoiser = flux_denoiser(1536)
  config.model.autoencoder = ConfigDict(section('kl'))
  config.model.mask_ratio = 0.85  # L091
  config.trainable = FREEZE_ENCODERS

  config.data.tokenizer = 'OpenGVLab/InternVL3-2B-hf'
  config.data.image_size = 512
  config.data.vision_size = 448
  config.data.visual_tokens = 1024
  config.data.prompt_tokens = 576  # the reconstruction prompt, 256 image tokens, 256 queries
  config.data.threads = 16

  config.optimizer.learning_rate = 1e-4  # L091, L092
  config.optimizer.clip_norm = 1.0
  config.optimizer.weight_decay = 0.0
  config.optimizer.ema_decay = 0.999
  config.train.checkpoint_every = 1000
  config.init_from.mllm = 'weights/internvl3_2b'
  config.init_from.autoencoder = 'weights/flux_vae'
  return config
