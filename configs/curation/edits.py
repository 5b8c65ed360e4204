"""Query-Kontext's edits from open sets (sections 2 and B.2; L071, L073): filtered, both ways,
in two languages.

  jaxgen curate configs/curation/edits.py --in=magicbrush:data/MagicBrush --out=data/edits \
    --engine=ray --workers=32 --model=images=onnx:clip_image.onnx --model=texts=... \
    --model=judge=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8000/v1 \
    --model=writer=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8000/v1

The input is an edit set by its name (magicbrush, omniedit, nhr-edit, gpt-image-edit, ...), or a
source that jaxgen reads. ``images`` and ``texts`` are the towers of one CLIP. The paper filters
MagicBrush's 10k edits by CLIP, scores synthetic ones by Qwen2.5-VL-72B, and has all 3M
instructions translated. The judge is asked once for an edit, ``writer`` once for each translation
and for a reverse that its words do not tell. Bounds are ours, the paper gives none.
"""

from jaxgen.curation import edits
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use
from jaxgen.curation.sets import edit_fields
from jaxgen.curation.sets import read_set


def get_recipe():
  return Recipe(
      read_set,
      [Stage(edit_fields),
       Stage(edits.similar, images=Use('images'), texts=Use('texts'), least_image=0.7,
             most_image=0.995, least_text=0.15),
       Stage(edits.judged, model=Use('judge'), fidelity=7, quality=7),
       Stage(edits.with_reverse, model=Use('writer'), keep=True),
       Stage(edits.translated, model=Use('writer'), language='Chinese'),
       Stage(edits.edit_sample)],
      models={'images': '', 'texts': '', 'judge': '', 'writer': ''}, chunk=256, threads=16)
