"""The paper's recipe study (Table 9, L096, L107) at small scale, on drawn shapes.

  launch/recipes.sh runs/recipes

pre-trains on images or on pairs, fine-tunes each model on images, pairs or a mix, scores all six
and prints the table. The argument names a stage and its data, as in ``recipes.py:pretrain_image``.
Results: docs/recipes.md.
"""

from configs.iomm import shapes
from jaxgen.core.errors import user_error

STEPS = dict(pretrain=300, finetune=300)  # all six in half an hour
IMAGE_SHARE = dict(image=1.0, pair=0.0, mix=0.5)  # mix ratio from L092


def get_config(recipe: str = 'finetune_mix'):
  stage, _, data = recipe.partition('_')
  if stage not in ('pretrain', 'finetune') or data not in IMAGE_SHARE:
    raise user_error('--config', f'recipes.py:{recipe}', 'write pretrain or finetune, _, and one '
                     f'of {", ".join(IMAGE_SHARE)}')
  config = shapes.generation(IMAGE_SHARE[data])
  config.train.steps = STEPS[stage]
  return config
