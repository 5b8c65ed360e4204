"""Query-Kontext on the drawn world, small enough for two CPU cores: its stages from nothing.

  make quickstart SYSTEM=query_kontext

Images of 16 x 16 pixels, a parameter-free pixel autoencoder, a tiny Qwen2.5-VL that first learns to
describe scenes. The argument names the stage: ``shapes.py:mllm``, ``stage1``, ``stage2``,
``stage3``, or ``whole`` in the place of the last, which trains all of the denoiser where stage 3
trains an adapter; with ``:zh``, as ``stage1:zh``, half of the words are Chinese and the vocabulary
is larger (``CHINESE=1 make quickstart SYSTEM=query_kontext``).
"""

from ml_collections import ConfigDict

from configs.query_kontext import base
from configs.query_kontext import stage1
from configs.query_kontext import stage2
from configs.query_kontext import stage3
from jaxgen.config import source
from jaxgen.core.errors import user_error
from jaxgen.models.registry import section

VOCAB, WIDTH, LAYERS, QUERIES = 512, 128, 4, 8
BILINGUAL = 768  # vocabulary with the Chinese words of the drawn world
STEPS = dict(mllm=500, stage1=500, stage2=1500, stage3=4000, whole=2500)
# Stages that train adapters do so with AdamW: the first stage's under Muon at 8e-3 left the
# language model's states all alike, and no later stage learned its words.
ADAPTER_RATES = dict(stage1=1e-3, stage3=2e-3)
PUBLISHED = dict(stage1=stage1, stage2=stage2, stage3=stage3)
# Source of the paper's stages -> drawn task, and the task that it is used for.
DRAWN = dict(english=('scene', 'pair'), reconstruction=('scene', 'reconstruction'),
             transformation=('transformation', 'transformation'), editing=('edit', 'edit'),
             customised=('reference', 'reference'), multi_subject=('reference', 'reference'))


# Shares of ``whole``: words to images are known, given images are new.
SHARES = dict(english=0.15, reconstruction=0.05, editing=0.45, customised=0.15, multi_subject=0.2)


def denoiser(width: int, layers: int) -> ConfigDict:
  return ConfigDict(section(
      'qwen_image', in_channels=48, out_channels=48, cond_dim=WIDTH, width=width, layers=layers,
      heads=width // 32, axes_dims=(8, 12, 12)))


def tiny(config: ConfigDict) -> ConfigDict:
  """Small models and rows in place of the published ones; the sources stay."""
  tiny_mllm(config)
  config.model.bridge = ConfigDict(section('learnable_queries', width=WIDTH, queries=QUERIES))
  config.model.connector = ConfigDict(section('mlp_connector', width=WIDTH, hidden=WIDTH,
                                              out_width=WIDTH))
  config.model.denoiser = denoiser(128, 4)
  config.model.autoencoder = ConfigDict(section('pixel', factor=2))
  config.model.compute_dtype = config.model.frozen_dtype = 'float32'
  for adapter in config.model.lora.values():
    adapter.update(rank=32, alpha=32.0)
  for group in ('mllm', 'bridge', 'connector', 'denoiser', 'autoencoder'):
    config.init_from[group] = ''
  config.data.update(tokenizer='runs/towers/tokenizer', dialect='plain',
                     image_size=16, buckets='', vision_pixels=(64, 256), threads=1)
  config.objective.timestep_shift = config.sampling.timestep_shift = 3.0
  config.optimizer.update(name='muon', learning_rate=8e-3, warmup_steps=50, schedule='cosine',
                          ema_decay=0.99)
  config.train.update(rows=32, zero=3, log_every=10, checkpoint_every=500)
  config.mesh.update(data=-1, fsdp=1, tensor=1)
  config.sampling.update(steps=20, guidance=1.5)
  return config


def tiny_mllm(config: ConfigDict) -> None:
  """Sets a Qwen2.5-VL for images of 16 pixels and the words of the drawn world."""
  config.model.mllm = ConfigDict(section(
      'qwen2_5_vl',
      vision=dict(width=96, layers=2, heads=3, mlp=256, patch_size=4, window=16,
                  full_attention=(1,)),
      text=dict(vocab=VOCAB, width=WIDTH, layers=LAYERS, heads=4, kv_heads=2, mlp=384,
                rope_theta=10_000.0, rope_sections=(4, 6, 6), embedding_std=1.0)))
  vocabulary(config, VOCAB)


def vocabulary(config: ConfigDict, size: int) -> None:
  """Sets the size of the language model's vocabulary; the last ids are those of images."""
  mllm = config.model.mllm
  mllm.text.vocab = size
  mllm.update(image_token_id=size - 1, video_token_id=size - 2, vision_start_id=size - 3,
              vision_end_id=size - 4)


def drawn(config: ConfigDict) -> None:
  """Drawn tasks in place of the published sources, with their shares; English words."""
  sources = config.data.sources
  sources.english.share = (sources.english.share[0] + sources.chinese.share[0],)
  del sources.chinese
  for name, spec in list(sources.items()):
    path, task = DRAWN[name]
    fields = dict(customised=(('count', '1'),), multi_subject=(('count', '2'),)).get(name, ())
    sources[name] = source('shapes', task, path=path, share=spec.share, fields=fields)


def get_config(stage: str = 'stage3') -> ConfigDict:
  name, colon, language = stage.partition(':')
  if name not in STEPS or (colon and language != 'zh'):
    raise user_error('--config', f'shapes.py:{stage}', f'write one of {", ".join(STEPS)}, and :zh '
                     'behind it for Chinese words')
  config = _captions() if name == 'mllm' else _whole() if name == 'whole' else _stage(name)
  if language:
    vocabulary(config, BILINGUAL)
    for spec in config.data.sources.values():
      spec.fields = (*spec.fields, ('languages', 'en,zh'))
  return config


def _stage(stage: str) -> ConfigDict:
  """One of the paper's stages."""
  config = tiny(PUBLISHED[stage].get_config())
  drawn(config)
  if stage == 'stage1':
    config.model.denoiser = denoiser(64, 2)
  if stage == 'stage3':
    # About three samples to a row: most have one given image or none, a few have two.
    config.data.update(segments_per_row=4, look_ahead=8, prompt_tokens=128, patches=64,
                       visual_tokens=96)
    config.train.rows = 16
    config.model.lora.denoiser.update(rank=64, alpha=64.0)
    # Always as far from its place in the target, which four layers learn; mirrored, the way between
    # the two differs from place to place.
    config.data.scheme = 'shifted_source_shift'
  else:
    config.data.update(segments_per_row=1, look_ahead=0, prompt_tokens=54 + QUERIES, patches=16,
                       visual_tokens=16)
  if stage in ADAPTER_RATES:
    config.optimizer.update(name='adamw', learning_rate=ADAPTER_RATES[stage])
  config.train.steps = STEPS[stage]
  return config


def _whole() -> ConfigDict:
  """Stage 3 for a denoiser that has never seen a clean image: all of it learns to."""
  config = _stage('stage3')
  config.model.lora = ConfigDict()
  config.trainable = stage2.get_config().trainable
  config.init_from.changes = ()
  for name, share in SHARES.items():
    config.data.sources[name].share = (share,)
  config.optimizer.update(name='muon', learning_rate=8e-3)
  config.train.steps = STEPS['whole']
  return config


def _captions() -> ConfigDict:
  """Before the paper's stages: the language model learns to say what it sees."""
  config = tiny(base.get_config())
  config.data.sources.captions = source('shapes', 'caption', path='scene')
  config.data.update(visual_tokens=0, prompt_tokens=64, patches=16)
  config.objective.update(flow_matching=0.0, next_token=1.0)
  config.trainable = ((r'mllm/.*', True), (r'(bridge|connector|denoiser|autoencoder)/.*', False))
  config.optimizer.ema_decay = 0.0
  config.train.steps = STEPS['mllm']
  return config
