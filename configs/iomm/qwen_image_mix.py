"""IOMM's mixed fine-tuning of Qwen-Image-20B at 512 (paper Table 6, L093).

  jaxgen train --config=configs/iomm/qwen_image_mix.py --workdir=runs/iomm_qwen_image/mix

Image-only samples condition on themselves through Qwen-Image's own understanding tower, with most
of their tokens masked; pairs condition on their caption. Adapters of rank 64 train. The argument
names the recipe of the study: ``mix``, ``image`` or ``pair``. Starts from weights/Qwen-Image, on
data packed as finetune_b_512.py describes. Hardware: 16 H800 or TPU chips; not run. Expect for
``mix``: GenEval 0.89, WISE 0.63; for ``image``: 0.42 (Table 2, L102).
"""

from ml_collections import ConfigDict

from configs.iomm import finetune_b_512
from configs.qwen_image import base
from configs.qwen_image import lora
from jaxgen.conversion.tables.pipelines import image_tokens
from jaxgen.sampling.schedules import size_shift

SIDE = 512
LATENTS = (SIDE // 16) ** 2


def get_config(recipe: str = 'mix') -> ConfigDict:
  config = lora.low_rank(base.get_config(), rank=64)
  config.model.mask_ratio = 0.85
  seen = image_tokens(SIDE**2)
  config.data.update(image_size=SIDE, buckets='', visual_tokens=LATENTS, patches=4 * seen,
                     vision_pixels=(3_136, SIDE**2), threads=16)
  config.data.prompt_tokens += seen
  config.data.sources = finetune_b_512.recipe(recipe)
  config.objective.timestep_shift = round(size_shift(LATENTS, config.sampling.size_shift), 3)
  config.optimizer.update(learning_rate=1e-4, clip_norm=1.0, weight_decay=0.0, ema_decay=0.0,
                          warmup_steps=0)
  config.train.update(rows=48, steps=21_900, checkpoint_every=1000)  # 5 epochs of 210,000 (L098)
  config.mesh.update(data=-1, fsdp=8)
  return config
