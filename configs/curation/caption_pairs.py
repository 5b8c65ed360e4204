"""Query-Kontext's image transformations (section 2; L069, L070): source, instruction, target.

  jaxgen curate configs/curation/caption_pairs.py --in=mmc4:DOCUMENTS --out=data/transformation \
    --engine=ray --workers=64 --model=features=onnx:siglip.onnx \
    --model=writer=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8000/v1

DOCUMENTS is a set that jaxgen reads, by its name (mmc4, omnicorpus-cc, obelics) or alone where its
files tell; its images must be there. ``features`` is an image tower, SigLIP in the paper, exported
to ONNX; ``writer`` is asked once for each pair and needs GPUs of its own. The paper keeps 0.8M
triplets and gives no bounds of similarity: these are ours, to be set for the tower.
"""

from jaxgen.curation import pools
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use
from jaxgen.curation.sets import read_set


def get_recipe():
  return Recipe(
      read_set,
      [Stage(pools.captioned_images, side=256, words=3),
       Stage(pools.featured, model=Use('features')),
       Group(pools.pairs, 'key', least=0.7, most=0.97, largest=2000, triplets=1),
       Stage(pools.instructed, model=Use('writer')),
       Stage(pools.transformation_sample)],
      models={'features': '', 'writer': ''}, chunk=256, buckets=64, threads=16)
