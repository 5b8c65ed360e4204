"""DuetGen as published; every config of this folder is derived from it. Not a stage itself.

Section 4 of the paper gives the models and what each stage trains (L108-L116). It gives no learning
rates, batch sizes, steps, dropout or guidance scale (L117): these are ours (A22, A23), Cosmos'
recipe for the denoiser (L141) and the usual one of fine-tuning for the language model.
"""

from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.config import source
from jaxgen.models.encoders.qwen2_5_vl import QWEN2_5_VL_7B
from jaxgen.models.registry import section

MLLM_WIDTH, MLLM_LAYERS, STATES = 3584, 28, 1024  # of Qwen2.5-VL-7B; what the connector makes of it
COSMOS = 'weights/cosmos_predict2_5_2b'  # the release itself, in NVIDIA's or diffusers' layout
RUNS = 'runs/duetgen'
# Instruction data: dialogues of web pages and of a commercial model, without those of the
# evaluation (L120, L123).
WEB, SYNTHETIC, HELD_OUT = 268_000, 30_000, 700
SIDE = 480  # longest side of an image of the language model (L113)
SEEN = (SIDE // 28) ** 2  # its tokens at the most, of four patches of 14 pixels each
IMAGES = 8  # most images of a sequence
LATENTS = 18_688  # of a row: eight images at 768, of at most 2,322 each, up to a multiple of 128


def get_config() -> ConfigDict:
  config = base_config()
  config.system = 'duetgen'
  config.model.mllm = ConfigDict(section(**QWEN2_5_VL_7B))
  config.model.connector = ConfigDict(section(
      'layers_connector', width=MLLM_WIDTH, layers=MLLM_LAYERS, out_width=STATES))
  # Cosmos' own projection is the connector (A21).
  config.model.denoiser = ConfigDict(section(
      'cosmos', cond_projection=False, cond_dim=STATES, text_dim=STATES, qk_epsilon=1e-6,
      remat='dots'))
  config.model.autoencoder = ConfigDict(section('wan_vae'))
  config.init_from.mllm = 'weights/qwen2_5_vl_7b'
  config.init_from.connector = config.init_from.denoiser = COSMOS
  config.init_from.autoencoder = 'weights/wan_vae'

  config.data.tokenizer = 'Qwen/Qwen2.5-VL-7B-Instruct'
  config.data.dialect = 'qwen_chat'
  config.data.scheme = 'per_image'  # t + 1 for each image, (h, w) of its own grid (L112)
  config.data.shown = 'preceding'  # states of the tokens before <BOV> (L110)
  config.data.clean_roles = ('context', 'source', 'reference')
  config.data.image_size = 768
  config.data.buckets = 'ratios:768'
  config.data.vision_side = SIDE
  config.data.pair_prompt = config.data.edit_prompt = '{caption}'
  config.data.empty_prompt = ''
  config.data.oversize = 'skip'
  config.data.dropout.update(all=0.0, last_text=0.2)
  config.data.segments_per_row = 8
  config.data.look_ahead = 16
  config.data.threads = 16

  config.objective.timestep_shift = 5.0
  config.optimizer.update(b1=0.9, b2=0.999, schedule='cosine', warmup_steps=100)
  config.train.rows = 64  # one for each device
  config.train.checkpoint_every = 500
  config.mesh.fsdp = 64
  config.sampling.update(steps=35, solver='unipc', guidance=5.0, timestep_shift=5.0)
  return config


def dialogues(config: ConfigDict, task: str, share: float) -> None:
  """Adds the instruction data for a task, by their sizes."""
  synthetic = SYNTHETIC - HELD_OUT
  for name, count in (('web', WEB), ('synthetic', synthetic)):
    config.data.sources[f'{name}_{task}'] = source(
        'arrayrecord', task, path=f'data/{name}/*.arrayrecord',
        share=(share * count / (WEB + synthetic),))


def alignment(config: ConfigDict, share: float) -> None:
  """Adds the alignment data (L124, L125): 5 M transitions of video and open image data.

  The paper gives no shares.
  """
  for name, task, part in (('video', 'edit', 0.4), ('text_to_image', 'pair', 0.2),
                           ('edits', 'edit', 0.25), ('references', 'reference', 0.15)):
    config.data.sources[name] = source('arrayrecord', task, share=(share * part,),
                                       path=f'data/{name}/*.arrayrecord')


def drawing_rows(config: ConfigDict) -> None:
  """Rows that hold a dialogue of eight images, or as many shorter samples as fit."""
  config.data.visual_tokens = LATENTS
  config.data.prompt_tokens = 4_096
  config.data.patches = IMAGES * 4 * SEEN
