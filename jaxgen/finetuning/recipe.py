"""How a published model is fine-tuned: what trains, at which sizes, rates and timesteps.

The numbers follow common practice of diffusers' scripts, ai-toolkit and musubi-tuner; no paper
gives them.
"""

from ml_collections import ConfigDict

from jaxgen.config import lora
from jaxgen.config import source
from jaxgen.core.errors import user_error
from jaxgen.data.buckets import GRID
from jaxgen.models.layers.lora import TRAINABLE
from jaxgen.sampling.schedules import size_shift
from jaxgen.systems.registry import make_system

SOURCE = 'images'
# Projections of the attentions and MLPs in the blocks of any denoiser, modulation left out.
MODULES = r'denoiser/(\w+/)?(\w+_)?blocks/(\w+_)?(attention/[qkv]|attention_out|mlp/\w+|mlp_up|out)'
# The same of the text towers, which are frozen unless asked for.
TEXT_MODULES = (r'(text_encoder|text_encoder_2|mllm/text)/(\w+/)?layers/'
                r'(attention/(q|k|v|out)|mlp/\w+)')
LEARNING_RATE = {'adapters': 1e-4, 'full': 1e-5}
DROPOUT = 0.05  # of the whole condition
SAVES = 4  # of a run


def recipe(config: ConfigDict, data: str, *, rank: int, text_rank: int = 0, size: int = 0,
           steps: int = 1000) -> ConfigDict:
  """The config of a fine-tuning run; rows and row capacity are those of one small image.

  Args:
    config: that draws as the published model does, see ``pipelines.Pipeline``.
    data: path of the images, see ``data.sources.layouts``.
    rank: of the denoiser's adapters; 0 trains the whole denoiser.
    text_rank: of adapters of the text towers; 0 = they stay as they are.
    size: images have about ``size**2`` pixels; 0 is the size that the model draws at.
    steps: of the run.

  Returns:
    A copy, unlocked.

  Raises:
    UserError: a size that no image can have, or adapters of the text towers alone.
  """
  config = config.copy_and_resolve_references().unlock()
  # A pipeline that takes words alone gets no room for images, even if its tower could see some.
  config.data.sources[SOURCE] = source('auto', 'auto' if config.data.clean_roles else 'pair',
                                       path=data)
  config.data.dropout.all = DROPOUT
  _sized(config, size)
  if rank:
    adapt(config, rank)
  if text_rank:
    adapt_text(config, text_rank)
  config.optimizer.update(
      learning_rate=LEARNING_RATE['adapters' if rank else 'full'], b2=0.999, weight_decay=0.01)
  config.train.update(steps=steps, checkpoint_every=max(1, steps // SAVES),
                      log_every=max(1, min(10, steps // 10)))
  return config


def adapt(config: ConfigDict, rank: int, modules: str = MODULES) -> None:
  """Adapters of the denoiser's modules alone train; alpha equals their rank."""
  config.model.lora.blocks = lora(modules, rank=rank, alpha=float(rank))
  config.trainable = ((TRAINABLE, True), ('.*', False))
  config.init_from.changes = ((r'denoiser/.*/lora/.*', 'reinit'),)


def adapt_text(config: ConfigDict, rank: int) -> None:
  """Adapters of the text towers train too, beside those of the denoiser."""
  if not config.model.lora:
    raise user_error('--text-lora', rank, 'trains beside adapters of the denoiser; drop --full')
  config.model.lora.text = lora(TEXT_MODULES, rank=rank, alpha=float(rank))
  config.init_from.changes += ((r'(text_encoder|text_encoder_2|mllm)/.*/lora/.*', 'reinit'),)


def _sized(config: ConfigDict, size: int) -> None:
  """Buckets of the size, and timesteps shifted as the model draws that size."""
  factor = make_system(config).layout.latent.factor
  step = max(GRID, factor)
  if size % factor:
    raise user_error('--size', size, f'must be a multiple of {factor}, the pixels along a latent '
                     'token')
  if size or not config.data.buckets:
    config.data.image_size = size or config.data.image_size
    config.data.buckets = f'ratios:{config.data.image_size}/{step}'
  line, tokens = config.sampling.size_shift, (config.data.image_size // factor)**2
  config.objective.timestep_shift = (
      size_shift(tokens, line) if line else config.sampling.timestep_shift)
