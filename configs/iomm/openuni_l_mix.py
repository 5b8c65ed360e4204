"""IOMM's mixed fine-tuning of OpenUni-L at 512 (paper Table 6, L093).

  jaxgen convert import --path=OPENUNI.pth --out=weights/openuni_l
  jaxgen train --config=configs/iomm/openuni_l_mix.py --workdir=runs/iomm_openuni/mix

OpenUni-L is InternVL3-2B, 256 queries, a connector of six layers and SANA-1.6B (L143). Image-only
samples condition on themselves, with most of their tokens masked; pairs condition on their caption.
Queries, connector and SANA train, the understanding model is frozen. The argument names the recipe
of the study: ``mix``, ``image`` or ``pair``. Data are packed as finetune_b_512.py describes.
Hardware: 8 H800 or TPU chips; not run. Expect for ``mix``: GenEval 0.88, WISE 0.59; for ``image``:
0.74 (Table 2, L102).
"""

from ml_collections import ConfigDict

from configs.iomm import base
from configs.iomm import finetune_b_512
from jaxgen.models.registry import section


def get_config(recipe: str = 'mix') -> ConfigDict:
  config = base.get_config()
  config.system = 'openuni'
  config.model.bridge = ConfigDict(section('learnable_queries', width=base.MLLM_WIDTH, queries=256))
  config.model.connector = ConfigDict(section('encoder_connector', remat='dots'))
  config.model.denoiser = ConfigDict(section('sana', remat='dots'))
  config.model.autoencoder = ConfigDict(section('dc_ae'))
  config.trainable = ((r'(bridge|connector|denoiser)/.*', True), (r'(mllm|autoencoder)/.*', False))
  config.init_from.bridge = config.init_from.connector = 'weights/openuni_l'
  config.init_from.denoiser = 'weights/openuni_l_sana'
  config.init_from.autoencoder = 'weights/dc_ae_f32c32'

  config.data.dialect = 'internvl'
  config.data.shown = 'queries'
  config.data.visual_tokens = (512 // 32) ** 2
  config.data.prompt_tokens = 640  # the chat turn, 256 image tokens, 256 queries
  config.data.sources = finetune_b_512.recipe(recipe)
  config.train.update(rows=256, steps=9_800)  # 12 epochs of 210,000 images (L098)
  config.mesh.fsdp = 1
  config.objective.timestep_shift = config.sampling.timestep_shift = 3.0  # SANA's
  config.sampling.update(steps=20, guidance=4.5)  # L099, L143
  return config
