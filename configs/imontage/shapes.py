"""iMontage on the drawn world, small enough for two CPU cores: its three stages from nothing.

  make quickstart SYSTEM=imontage

Images of 16 x 16 pixels, a parameter-free pixel autoencoder, a tiny Llama and CLIP. Unlike the
published towers these know no language before, and train along in every stage. The argument names
the stage: ``shapes.py:pretrain``, ``sft``, ``hq``; ``sft:flat`` has another schedule, see sft.py.
Scores: docs/imontage.md.
"""

from ml_collections import ConfigDict

from configs.imontage import base
from configs.imontage import sft
from jaxgen.config import source
from jaxgen.core.errors import user_error
from jaxgen.data.mixture import flat_mix
from jaxgen.models.registry import section

VOCAB, WIDTH = 512, 128
STEPS = dict(pretrain=1500, sft=3000, hq=2000)
# Source of the paper's stages -> drawn task.
DRAWN = dict(multi_reference='reference', control_reference='control', style_reference='style',
             multi_turn='multi_turn', multi_view='views', storyboard='storyboard')
COUNT = (('count', '1-3'),)  # of references and outputs: rows are small


def tiny() -> ConfigDict:
  """Sizes and optimizer; no sources."""
  config = base.get_config()
  config.model.text_encoder = ConfigDict(section(
      'llama', vocab=VOCAB, width=WIDTH, layers=4, heads=4, kv_heads=2, mlp=384, qkv_bias=False,
      rope_theta=10_000.0, embedding_std=1.0, tie_embeddings=True))
  config.model.text_encoder_2 = ConfigDict(section(
      'clip_text', vocab=VOCAB, width=64, layers=1, heads=2, mlp=128, positions=24, eos_id=0))
  config.model.denoiser = ConfigDict(section(
      'hunyuan_video', in_channels=48, out_channels=48, cond_dim=WIDTH, pooled_dim=64, width=128,
      heads=4, double_blocks=2, single_blocks=2, refiner_blocks=1, axes_dims=(16, 8, 8)))
  config.model.autoencoder = ConfigDict(section('pixel', factor=2))
  config.model.compute_dtype = config.model.frozen_dtype = 'float32'
  for group in ('text_encoder', 'text_encoder_2', 'denoiser', 'autoencoder'):
    config.init_from[group] = ''
  config.trainable = ((r'denoiser/.*|text_encoder.*/.*', True), (r'.*', False))
  for group in ('text_encoder', 'text_encoder_2'):
    config.data.tower_tokenizers[group] = 'runs/quickstart_imontage/tokenizer'
  # Drawn instructions of several outputs say how many by themselves.
  config.data.pair_prompt = config.data.edit_prompt = '{caption}'
  config.data.image_size = 16
  config.data.visual_tokens = 128
  config.data.prompt_tokens = 64
  config.data.segments_per_row = 2
  config.data.threads = 1
  config.objective.timestep_shift = config.sampling.timestep_shift = 3.0
  config.optimizer.update(name='muon', learning_rate=8e-3, warmup_steps=50, schedule='cosine',
                          ema_decay=0.99, weight_decay=0.0)
  config.train.update(rows=16, accumulate=1, log_every=10, checkpoint_every=500)
  config.mesh.update(data=-1, fsdp=1, context=1)
  config.sampling.update(steps=20, guidance=1.5)
  return config


def get_config(stage: str = 'sft'):
  stage, _, schedule = stage.partition(':')
  if stage not in STEPS:
    raise user_error('--config', f'shapes.py:{stage}', f'write one of {", ".join(STEPS)}')
  config = tiny()
  if stage == 'pretrain':
    # Three pairs in a row; single edits are short.
    config.data.update(visual_tokens=96, segments_per_row=3, prompt_tokens=20)
    config.data.sources.video = source('shapes', 'edit', path='transition', share=(0.75, 0.25))
    config.data.sources.edits = source('shapes', 'edit', path='edit', share=(0.25, 0.75))
  else:
    edits = sft.EDITS if stage == 'sft' else 0.5
    shares = sft.shares(schedule or 'cocktail') if stage == 'sft' else flat_mix(
        base.ORDER, base.SIZES, total=1 - edits)
    config.data.interpolation = 'step'
    config.data.sources.edits = source('shapes', 'edit', path='edit', share=(edits,))
    for name, knots in shares.items():
      config.data.sources[name] = source('shapes', 'many_to_many', path=DRAWN[name], share=knots,
                                         fields=COUNT)
  config.train.steps = STEPS[stage]
  return config
