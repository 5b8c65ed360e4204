"""The paper's recipe study (Table 9, L096, L107) at small scale, on drawn captions.

  launch/ablations.sh iomm_recipes runs/recipes 0,1,2

pre-trains on images or on pairs, fine-tunes each model on images, pairs or a mix, scores all six
with every seed and prints the table. WORLD=partial does the same on scenes that hold more than
their captions say. The argument names world, stage and data: ``recipes.py:pretrain_image``,
``recipes.py:partial_finetune_mix``. Results: docs/recipes.md.
"""

from configs.iomm import quickstart
from configs.iomm import shapes
from jaxgen.core.errors import user_error

STEPS = dict(mllm=quickstart.STEPS['mllm'], pretrain=300, finetune=300)
IMAGE_SHARE = dict(image=1.0, pair=0.0, mix=0.5)  # mix ratio from L092


def get_config(recipe: str = 'finetune_mix'):
  world = 'partial' if recipe.startswith('partial_') else ''
  stage, _, data = recipe.removeprefix('partial_').partition('_')
  if stage == 'mllm' and not data:
    config = shapes.captions(world)
  elif stage in ('pretrain', 'finetune') and data in IMAGE_SHARE:
    config = shapes.generation(IMAGE_SHARE[data], world)
  else:
    raise user_error('--config', f'recipes.py:{recipe}', 'write mllm, or pretrain or finetune, _, '
                     f'and one of {", ".join(IMAGE_SHARE)}; before it partial_ if you like')
  config.train.steps = STEPS[stage]
  return config
