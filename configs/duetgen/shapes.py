"""DuetGen on drawn dialogues, small enough for two CPU cores: its stages from nothing.

  make quickstart SYSTEM=duetgen

Images of 16 x 16 pixels, a parameter-free pixel autoencoder, the tiny Qwen2.5-VL of Query-Kontext's
drawn world, which can describe scenes. The argument names the stage: ``shapes.py:ntp`` (stage 1),
``cosmos`` (text to image alone, which the published denoiser has learned before), ``align``
(stage 2); ``joint`` trains the first and the last at once in their place. With ``:last``, as
``align:last``, the denoiser is told the language model's last layer alone, not all of them.
"""

from ml_collections import ConfigDict

from configs.duetgen import joint
from configs.duetgen import stage1
from configs.duetgen import stage2
from configs.query_kontext.shapes import LAYERS
from configs.query_kontext.shapes import tiny_mllm
from configs.query_kontext.shapes import WIDTH
from jaxgen.config import source
from jaxgen.core.errors import user_error
from jaxgen.models.registry import section

STEPS = dict(ntp=1500, cosmos=1000, align=5500, joint=4000)
PUBLISHED = dict(ntp=stage1, align=stage2, joint=joint)
# Source of the paper's stages -> drawn task. Dialogues begin with text alone, or with an image.
DRAWN = dict(video='transition', text_to_image='scene', edits='edit', references='reference',
             web='guide', synthetic='session')
# Of the alignment data. Text to image and references need the most samples, transitions few: they
# are edits in other words.
SHARES = dict(video=0.1, text_to_image=0.3, edits=0.3, references=0.3)
# Tokens of a row, images that the language model sees in it, images of the denoiser; the longest
# dialogue has 140 tokens and five images.
ROWS = dict(ntp=(384, 16, 0), cosmos=(160, 1, 4), align=(160, 6, 6), joint=(256, 10, 6))


def tiny(config: ConfigDict) -> ConfigDict:
  """Small models and rows in place of the published ones; the sources stay."""
  tiny_mllm(config)
  config.model.connector = ConfigDict(section('layers_connector', width=WIDTH, layers=LAYERS,
                                              out_width=WIDTH))
  config.model.denoiser = ConfigDict(section(
      'cosmos', in_channels=48, cond_dim=WIDTH, text_dim=WIDTH, cond_projection=False, width=128,
      heads=4, layers=4, modulation_rank=32, rope_scale=(1.0, 1.0, 1.0), padding_mask=False))
  config.model.autoencoder = ConfigDict(section('pixel', factor=2))
  config.model.compute_dtype = config.model.frozen_dtype = 'float32'
  for group in ('mllm', 'connector', 'denoiser', 'autoencoder'):
    config.init_from[group] = ''
  config.init_from.changes = ()
  config.data.update(tokenizer='runs/towers/tokenizer', dialect='plain', image_size=16,
                     buckets='', oversize='refuse', vision_pixels=(64, 256), threads=1)
  config.objective.timestep_shift = config.sampling.timestep_shift = 3.0
  config.optimizer.update(name='muon', learning_rate=8e-3, warmup_steps=50, clip_norm=1.0,
                          weight_decay=0.0, ema_decay=0.99)
  config.train.update(rows=16, log_every=10, checkpoint_every=500)
  config.mesh.update(data=-1, fsdp=1)
  config.sampling.update(steps=20, solver='euler', guidance=1.5)
  return config


def drawn(config: ConfigDict) -> None:
  """Drawn tasks in place of the published sources, those of images half of dialogues.

  Dialogues of both beginnings come equally often, alignment data as ``SHARES`` has it.
  """
  published = config.data.sources
  writing = sum(spec.share[0] for spec in published.values() if spec.task == 'conversation')
  config.data.sources = ConfigDict()
  for name, spec in published.items():
    if name in SHARES:
      drawn_task, share = DRAWN[name], SHARES[name] * (1 - writing) / 2
    else:
      drawn_task = DRAWN[name.removesuffix(f'_{spec.task}')]
      share = writing / 2 if spec.task == 'conversation' else (1 - writing) / 4
    config.data.sources[name] = source('shapes', spec.task, path=drawn_task, share=(share,))


def get_config(stage: str = 'align') -> ConfigDict:
  stage, _, layers = stage.partition(':')
  if stage not in STEPS or layers not in ('', 'all', 'last'):
    raise user_error('--config', f'shapes.py:{stage}{_}{layers}', 'write one of '
                     f'{", ".join(STEPS)}, and :last behind it for the last layer alone')
  config = tiny(PUBLISHED.get(stage, stage2).get_config())
  drawn(config)
  tokens, seen, images = ROWS[stage]
  config.data.update(prompt_tokens=tokens, patches=16 * seen, visual_tokens=16 * images,
                     segments_per_row=4, look_ahead=8)
  config.train.steps = STEPS[stage]
  if layers == 'last':
    config.model.connector = ConfigDict(section('mlp_connector', width=WIDTH, hidden=WIDTH,
                                                out_width=WIDTH))
  if stage == 'ntp':
    config.train.rows = 8  # of three dialogues each
  if stage == 'cosmos':
    scenes = config.data.sources.text_to_image
    scenes.share = (1.0,)
    config.data.sources = ConfigDict(dict(text_to_image=scenes))
    config.optimizer.schedule = 'constant'
  return config
