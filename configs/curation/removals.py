"""Query-Kontext's removals and additions by masks (section B.2; L072, L073), both ways.

  jaxgen curate configs/curation/removals.py --in=objects.jsonl --out=data/removals --engine=ray \
    --workers=16 --model=painter=images:flux-fill@http://HOST:8000/v1 \
    --model=judge=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8001/v1 \
    --model=writer=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8001/v1

Each row of the table has an ``image``, a ``mask``, an image that is light where the object is, and
the name of the ``object``: those of an instance segmentation, or of GroundingDINO and SAM. The mask
is widened in a shape that is drawn, since an object's own outline has it drawn again; ``painter``
inpaints once for a row, the pixels outside the mask stay. A removal is judged once, and turned into
an addition whose target is the photograph. The paper fills masks to add and remove, and takes the
instructions of removals from templates; it gives neither bounds nor yields of its own for these.
"""

from jaxgen.curation import edits
from jaxgen.curation import masks
from jaxgen.curation import readers
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use


def get_recipe():
  return Recipe(
      readers.pictures('image', 'mask'),
      [Stage(masks.wider_mask, most=0.6),
       Stage(masks.removed, model=Use('painter')),
       Stage(edits.judged, model=Use('judge'), fidelity=7, quality=7),
       Stage(edits.with_reverse, model=Use('writer'), keep=True),
       Stage(edits.translated, model=Use('writer'), language='Chinese'),
       Stage(edits.edit_sample)],
      models={'painter': '', 'judge': '', 'writer': ''}, chunk=256, threads=16)
