"""IOMM on drawn shapes, small enough for two CPU cores; the small configs are derived from it.

It has every part of the full system at small size: InternVL, residual queries, a FLUX-shaped MMDiT
and a parameter-free pixel autoencoder. The tokenizer folder is created by

  jaxgen data tokenizer --kind=shapes --out=FOLDER
"""

from ml_collections import ConfigDict

from configs.iomm import base
from jaxgen.config import source
from jaxgen.models.registry import section

VOCAB = 512  # at least the tokenizer's vocabulary
WIDTH = 128  # hidden size of the language model


def get_config() -> ConfigDict:
  config = base.get_config()
  config.model.mllm = ConfigDict(section(
      'internvl',
      vision=dict(image_size=16, patch_size=4, width=96, layers=2, heads=3, mlp=384),
      text=dict(vocab=VOCAB, width=WIDTH, layers=2, heads=4, kv_heads=2, mlp=384,
                rope_theta=10_000.0, embedding_std=1.0),
      downsample=0.5, image_token_id=VOCAB - 1))
  config.model.bridge = ConfigDict(section('residual_queries', width=WIDTH, queries=8, heads=4))
  config.model.denoiser = ConfigDict(section(
      'mmdit', in_channels=48, cond_dim=WIDTH, width=128, heads=4, double_blocks=2,
      single_blocks=2, axes_dims=(4, 14, 14)))
  config.model.autoencoder = ConfigDict(section('pixel', factor=2))
  config.model.compute_dtype = 'float32'  # CPUs have no fast bfloat16
  config.model.frozen_dtype = 'float32'

  config.data.tokenizer = 'runs/shapes/tokenizer'
  config.data.image_size = 16
  config.data.vision_size = 16
  config.data.visual_tokens = 16
  config.data.prompt_tokens = 25  # 17 prompt tokens and 8 queries
  config.data.threads = 1

  # Large shapes stay visible at high noise levels, where the layout is decided.
  config.objective.timestep_shift = 3.0
  config.sampling.timestep_shift = 3.0

  config.optimizer.name = 'muon'
  config.optimizer.schedule = 'cosine'
  config.optimizer.learning_rate = 8e-3
  config.optimizer.warmup_steps = 50
  config.optimizer.ema_decay = 0.99
  config.train.rows = 64
  config.train.log_every = 10
  config.train.checkpoint_every = 500
  config.mesh.fsdp = 1
  config.init_from.mllm = ''
  config.init_from.autoencoder = ''
  config.sampling.steps = 20
  config.sampling.guidance = 3.0
  return config


def captions(world: str = '') -> ConfigDict:
  """A captioning stage before the paper's stages, which pre-trains the MLLM from scratch."""
  config = get_config()
  config.data.sources.captions = source('shapes', 'caption', path=world)
  config.data.visual_tokens = 0
  config.data.prompt_tokens = 24
  config.objective.flow_matching = 0.0
  config.objective.next_token = 1.0
  config.trainable = ((r'mllm/.*', True), (r'bridge/.*|denoiser/.*|autoencoder/.*', False))
  config.optimizer.ema_decay = 0.0
  return config


def generation(image_share: float, world: str = '') -> ConfigDict:
  """Trains the generator on image-only samples (share ``image_share``) and pairs.

  ``world`` is a drawn task of the kind text to image, '' for captions alone.
  """
  config = get_config()
  if image_share > 0:
    config.data.sources.images = source('shapes', 'image', path=world, share=(image_share,))
  if image_share < 1:
    config.data.sources.pairs = source('shapes', 'pair', path=world, share=(1 - image_share,))
  return config
